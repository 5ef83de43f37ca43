"""The report: one self-contained page about a run. See :func:`mashbill.report.page.write_report`."""

import lazy_loader

# The names stand in the stub beside this file, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
