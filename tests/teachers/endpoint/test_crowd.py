"""Several jobs at once, and none that anybody has to wait for."""

import subprocess
import sys
import threading
import time

import pytest

from mashbill.teachers.endpoint.crowd import at_once


def test_every_job_ends_once() -> None:
    jobs = [lambda n=n: n * n for n in range(50)]
    assert sorted(at_once(jobs, n=7)) == [(n, n * n) for n in range(50)]
    assert list(at_once([], n=3)) == []


def test_what_a_job_raises_is_handed_over() -> None:
    found = dict(at_once([lambda: 1, lambda: int("x")], n=2))
    assert found[0] == 1
    assert isinstance(found[1], ValueError)


def test_nothing_is_begun_for_a_caller_who_has_left() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def job(n: int) -> None:
        begun.append(n)
        if n > 0:
            gate.wait(5)

    running = at_once([lambda n=n: job(n) for n in range(20)], n=2)
    assert next(running)[0] == 0
    running.close()
    n_begun = len(begun)
    gate.set()
    time.sleep(0.05)
    assert n_begun <= 3
    assert len(begun) == n_begun


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX signal")
def test_a_job_that_never_ends_does_not_hold_up_an_interrupted_program() -> None:
    code = (
        "import os, signal, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs in the background may ignore it
        "from mashbill.teachers.endpoint.crowd import at_once\n"
        "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "list(at_once([lambda: time.sleep(60)], n=1))\n"
    )
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in ended.stderr
    assert time.monotonic() - began < 20
