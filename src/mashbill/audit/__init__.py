"""The audit: which axioms an operator satisfies, with evidence that somebody else can check again.

It knows the contracts of rules, pools, softenings and recursions, and none of the operators that come with the package.
"""

import lazy_loader

# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
