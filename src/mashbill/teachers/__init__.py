"""Teachers of every kind behind one protocol."""

import lazy_loader

# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
