"""The report: one self-contained page about a run. See :func:`mashbill.report.page.write_report`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"page": ["write_report"]})
