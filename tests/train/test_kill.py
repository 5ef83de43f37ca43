"""Runs that are killed at random moments, or asked to stop, end with the bits of a run that was left alone."""

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from mashbill.train.loading import Loaded
from mashbill.train.run import distill

N_KILLS = 24
KILLED, FINISHED, INTERRUPTED = -signal.SIGKILL, 0, 130


def bits(directory: Path) -> dict[str, bytes]:
    """Return the bytes of the student, of the last checkpoint, and what was recorded."""
    last = sorted((directory / "checkpoints").glob("step-*"))[-1]
    tensors = {**load_file(last / "model.safetensors"), **load_file(last / "optimizer.safetensors")}
    tensors |= {f"student/{name}": value for name, value in load_file(directory / "student/model.safetensors").items()}
    found = {name: value.numpy().tobytes() for name, value in tensors.items()}
    lines = (directory / "records.jsonl").read_text(encoding="utf-8").splitlines()
    found["records"] = json.dumps([{**json.loads(line), "seconds": 0} for line in lines]).encode()
    found["result"] = (directory / "result.json").read_bytes()
    return found


def start(loaded: Loaded, log: Path) -> int:
    """Run in a forked child, which has torch already; return its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            distill(loaded)
            code = FINISHED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:
            log.write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(code)
    return child


def ended(child: int, *, kill_after: float | None = None) -> int:
    """Wait for a child, killing it after some seconds; return its exit code, or minus the signal that ended it."""
    begun = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if kill_after is not None and time.monotonic() - begun > kill_after:
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.002)


def test_kill_at_random_moments_changes_nothing(classification: Callable[..., Loaded], tmp_path: Path) -> None:
    changes = {"train.save_steps": 1, "train.max_steps": 8, "data.scorecard": "scorecard.jsonl"}
    changes["weighting"] = {"token": {"rule": "entropy_softmax"}, "task": {"rule": "performance"}}
    log = tmp_path / "error.txt"
    begun = time.monotonic()
    assert ended(start(classification({**changes, "output": "whole"}), log)) == FINISHED, log.read_text(
        encoding="utf-8"
    )
    whole_run = time.monotonic() - begun
    expected = bits(tmp_path / "whole")
    chance = random.Random(0)
    n_kills = n_runs = 0
    while n_kills < N_KILLS:
        loaded = classification({**changes, "output": f"run{n_runs}"})
        # At most eight kills a run, so that some runs also get to their late moments.
        for _ in range(8):
            code = ended(start(loaded, log), kill_after=chance.uniform(0.02, 0.9) * whole_run)
            assert code in (KILLED, FINISHED), log.read_text(encoding="utf-8")
            n_kills += code == KILLED
            if code == FINISHED:
                break
        assert ended(start(loaded, log)) == FINISHED, log.read_text(encoding="utf-8")
        assert bits(tmp_path / f"run{n_runs}") == expected
        n_runs += 1
    assert n_runs >= 2


def test_ctrl_c_and_sigterm_leave_a_checkpoint_and_go_on(classification: Callable[..., Loaded], tmp_path: Path) -> None:
    changes = {"train.max_steps": 40, "train.logging_steps": 1, "train.save_steps": None, "train.eval_steps": None}
    log = tmp_path / "error.txt"
    assert ended(start(classification({**changes, "output": "whole"}), log)) == FINISHED, log.read_text(
        encoding="utf-8"
    )
    loaded = classification({**changes, "output": "parts"})
    run = tmp_path / "parts"
    for number, wanted in ((signal.SIGINT, 4), (signal.SIGTERM, 12)):
        child = start(loaded, log)
        while n_records(run) < wanted:
            time.sleep(0.002)
        os.kill(child, number)
        assert ended(child) == INTERRUPTED
        described = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert described["status"] == "interrupted"
        assert wanted <= described["steps"] < 40
        assert (run / f"checkpoints/step-{described['steps']:08d}/manifest.json").is_file()
    assert ended(start(loaded, log)) == FINISHED
    assert bits(run) == bits(tmp_path / "whole")


def n_records(run: Path) -> int:
    path = run / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
