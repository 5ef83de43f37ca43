"""Published weighting methods as weight operators, one a file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"route": ["Route"]})
