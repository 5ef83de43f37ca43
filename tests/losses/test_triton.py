"""The GPU kernels: interpreted on the CPU, compiled without a GPU, run on a GPU if there is one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mashbill.distributions import Dense, Projected
from mashbill.losses import triton
from mashbill.losses.objective import Objective
from mashbill.losses.weighing import Weighing

HERE = Path(__file__).resolve().parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which exists for Linux: pip install triton"
)


def run(*words, **variables) -> subprocess.CompletedProcess:
    # A process of its own: whether kernels are interpreted or compiled is decided once, when they are defined.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))}
    environment |= {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)


def run_cases(**variables) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:xdist", str(HERE / "triton_cases.py"), **variables)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@needs_triton
@pytest.mark.slow
def test_interpreted_kernels_agree_with_the_reference():
    run_cases(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@needs_triton
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU; on one: python -m pytest tests/losses/test_triton.py -k gpu"
)
def test_gpu_kernels_agree_with_the_reference():
    run_cases()


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_kernels_compile_without_a_gpu_and_spill_nothing(arch, tmp_path):
    done = run(str(HERE / "compile_triton.py"), "--few", str(arch), TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    table = json.loads(done.stdout)
    kernels = {name.split()[1] for name in table}
    assert kernels == {"normalise_rows", "measure_rows", "complete_rows", "mix_rows", "scale_rows"}
    for name, needs in table.items():
        assert needs["stack"] == needs["local"] == 0, (name, needs)
        assert needs["registers"] <= 128, (name, needs)


def arguments(**options):
    logits = torch.zeros(1, 2, 4)
    teachers = options.pop("teachers", [Dense.from_logits(logits)])
    objective = Objective(**{name: value for name, value in options.items() if name != "logits"})
    rest = {"mask": torch.ones(1, 2, dtype=torch.bool), "labels": None, "objective": objective}
    return (options.get("logits", logits), teachers, Weighing.by(torch.zeros(1, 1, 1), rest["mask"])), rest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "total_variation"}, "divergence='total_variation' has no GPU kernel"),
        ({"pool": "log_linear"}, "pool='log_linear' has no GPU kernel"),
        ({"cross_entropy": 1.0}, "cross_entropy=1.0 reads no teacher"),
        ({"logits": torch.zeros(1, 2, 4, dtype=torch.float64)}, "student_logits is torch.float64"),
        ({"logits": torch.zeros(1, 4, 2).mT}, "student_logits does not hold the entries of a position side by side"),
        ({"teachers": [Dense(torch.zeros(1, 2, 4, device="meta"))]}, r"teachers\[0\] is on meta"),
        ({"teachers": [Projected(torch.zeros(1, 2, 3), torch.zeros(4, 3))]}, r"teachers\[0\] is Projected"),
    ],
)
def test_what_the_kernels_do_not_cover_is_named(options, message):
    positional, named = arguments(**options)
    with pytest.raises(ValueError, match=message):
        triton.distillation_loss(*positional, **named)


def test_without_triton_there_is_one_clear_error(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find_spec(name))
    monkeypatch.setattr(triton, "_is_installed", triton._is_installed.__wrapped__)
    assert not triton.is_available(torch.device("cuda"))
    positional, named = arguments()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mashbill\[triton\]'"):
        triton.distillation_loss(*positional, **named)


def test_importing_needs_no_triton():
    code = """
import importlib.util, sys
sys.modules["triton"] = None
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find_spec(name, *rest)
import mashbill.losses.triton, mashbill.losses.triton_mix, mashbill.losses.triton_rows
"""
    done = run("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_interpreter_makes_the_kernels_available_on_the_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton.is_available(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    is_installed = importlib.util.find_spec("triton") is not None
    assert triton.is_available(torch.device("cpu")) == is_installed
    assert triton.is_available(torch.device("cuda")) == is_installed


def test_nobody_looks_for_triton_where_it_could_not_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton, "_is_installed", lambda: pytest.fail("a look through folders takes longer than a loss"))
    assert not triton.is_available(torch.device("cpu"))
