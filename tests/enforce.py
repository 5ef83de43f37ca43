"""The run-time type check of the test suite; named in ``pyproject.toml`` and put around every function there is.

Like the static check, and other than beartype by itself, it takes an ``int`` where a ``float`` is asked for (PEP 484).
"""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
