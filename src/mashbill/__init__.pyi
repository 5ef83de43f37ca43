from . import audit as audit
from . import distributions as distributions
from . import guarantees as guarantees
from . import losses as losses
from . import numerics as numerics
from . import pools as pools
from . import shapes as shapes
from . import teachers as teachers
from . import weights as weights
from .distributions import soften as soften
from .weights import conform as conform
from .weights import order as order
from .weights import product as product
from .weights import simplex as simplex

__version__: str
