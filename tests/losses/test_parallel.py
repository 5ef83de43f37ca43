"""Chunks have the cores to themselves."""

import os
import subprocess
import sys

import pytest

from mashbill.losses import parallel

CODE = """
import os
import torch
from mashbill.losses import parallel

torch.set_num_threads(2)
torch.zeros(2**24).exp_()
before, during = set(os.listdir("/proc/self/task")), []
chunk = lambda _: during.append(set(os.listdir("/proc/self/task")))
parallel.spread([0], lambda: chunk, device=torch.device("cpu"))
print(len(before - during[0]), float(torch.ones(2**24).sum()))
"""


@pytest.mark.skipif(
    parallel._openmp(os.getpid()) is None, reason="PyTorch has no threads of GNU OpenMP here: run it on Linux"
)
def test_threads_of_an_operation_end_before_chunks_begin_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    n_ended, total = done.stdout.split()
    assert int(n_ended) == 1  # The operation's second thread, which would spin.
    assert float(total) == 2**24


FORKED = """
import os, sys
import torch

def spread():
    from mashbill.losses import parallel
    found = []
    parallel.spread(list(range(4)), lambda: found.append, device=torch.device("cpu"))
    return sorted(found) == list(range(4))

torch.set_num_threads(2)
assert sys.argv[1] == "late" or spread()
torch.zeros(2**24).exp_()
child = os.fork()
if child == 0:
    os._exit(0 if spread() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks on this system: run it on Linux")
@pytest.mark.parametrize("imported", ["early", "late"])
def test_chunks_are_done_in_a_fork_too(imported: str) -> None:
    assert subprocess.run([sys.executable, "-c", FORKED, imported], check=False, timeout=60).returncode == 0
