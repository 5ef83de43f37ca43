"""Distil several teachers into one student, with weights that are checked, bounded and ordered by safety."""

import lazy_loader

__version__ = "0.1.0"

# Lazy, so that help and validation start without importing torch.
# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
