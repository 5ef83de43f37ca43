from .call import distillation_loss as distillation_loss
from .diagnostics import Diagnostics as Diagnostics
from .diagnostics import diagnose as diagnose
from .divergence import forward_kl as forward_kl
from .divergence import js as js
from .divergence import reverse_kl as reverse_kl
from .objective import LossOutput as LossOutput
from .objective import Objective as Objective
