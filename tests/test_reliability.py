"""The command behind the figures of docs/stores.md, with small numbers."""

import pytest
import reliability


@pytest.mark.parametrize(("work", "n"), [(reliability.kills, 6), (reliability.corruptions, 36)])
def test_nothing_is_lost_unnoticed_or_unnamed(work, n, tmp_path):
    n_bad, lines = work(n, tmp_path)
    assert n_bad == 0, lines
    assert f": {n}" in lines[0]
