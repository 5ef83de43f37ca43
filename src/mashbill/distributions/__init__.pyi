from . import soften as soften
from .dense import Dense as Dense
from .statistics import Statistics as Statistics
from .statistics import measure as measure
from .statistics import measure_logits as measure_logits
from .topk import TopK as TopK
