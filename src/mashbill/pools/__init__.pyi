from .arithmetic import linear as linear
from .geometric import log_linear as log_linear
from .power_mean import power as power
