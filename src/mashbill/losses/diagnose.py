"""The path of :mod:`mashbill.losses.diagnostics` that existing imports use.

Importing this module by path binds the package's name ``diagnose`` to the module instead of the function; write
``from mashbill.losses.diagnostics import diagnose``.
"""

from mashbill.losses.diagnostics import Diagnostics, diagnose

__all__ = ["Diagnostics", "diagnose"]
