"""What follows from conforming weights: bounds with constants, which of them a rule inherits, and what was measured.

The statements are the corrected ones; :func:`claims` holds the papers' own against counter-examples.
"""

import lazy_loader

# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
