"""Synthetic runs and their pages, made once."""

from pathlib import Path

import pytest
from report import synthetic

from mashbill.report.page import write_report


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A whole run directory of each kind; not to be changed."""
    base = tmp_path_factory.mktemp("runs")
    return {kind: synthetic.write_run(base / kind, kind) for kind in ("classifier", "causal_lm")}


@pytest.fixture(scope="session")
def pages(runs) -> dict[str, str]:
    """The page of each run."""
    return {kind: write_report(directory).read_text(encoding="utf-8") for kind, directory in runs.items()}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A small classifier run that a test may change."""
    return synthetic.write_run(tmp_path / "first", "classifier", small=True)
