import mmap
from pathlib import Path

import pytest
import torch

from mashbill.losses.pages import in_large_pages

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
IS_OFFERED = ENABLED.exists() and "[never]" not in ENABLED.read_text()


def advised(values):
    """Say whether the system was told to use large pages for the memory of a tensor."""
    middle, inside = values.data_ptr() + values.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            start, end = (int(one, 16) for one in first.split("-"))
            inside = start <= middle < end
        elif inside and first == "VmFlags:":
            return "hg" in rest.split()
    return False


@pytest.mark.skipif(not IS_OFFERED, reason="the system has no large pages to give: run it where it has")
def test_large_tensors_lie_in_large_pages_and_small_ones_are_left_alone():
    # Mapped here, since memory that the allocator has used before may have been asked for already.
    large, beside = (torch.frombuffer(mmap.mmap(-1, 2**24), dtype=torch.float32) for _ in range(2))
    assert in_large_pages(large) is large
    assert advised(large)
    assert not advised(beside)
    small = torch.empty(2**12)
    assert in_large_pages(small) is small


def test_the_values_are_the_tensor_s_own():
    given = torch.empty(2**22 + 3)
    assert in_large_pages(given) is given
    assert given.fill_(2).sum() == 2 * len(given)
    assert in_large_pages(torch.empty(2**24, device="meta")).is_meta
