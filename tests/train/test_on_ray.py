"""Stores filled by actors of a Ray cluster have the bytes of one local worker, whoever dies meanwhile.

Not part of the default run: Ray is half a gigabyte of packages that nothing else needs, and a cluster takes most of a
minute to start. ``python3 dev test-cluster`` (or ``make test-cluster``) installs it and runs this.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import yaml

from mashbill.cli.app import main
from mashbill.errors import MashbillError
from mashbill.teachers.store import verifying
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, Shard
from mashbill.train import on_ray
from mashbill.train.filling import Task

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the package ray: python3 dev test-cluster")

DEADLY = '''
import os, signal, sys
from pathlib import Path

HERE = Path(__file__).parent


class Deadly:
    """Dies at some texts, once at each: the system kills the whole process, as it does when memory is short."""

    labels = ("de", "en", "fr")
    version = "1"

    def predict(self, texts):
        return [self._one(text) for text in texts]

    def _one(self, text):
        number = int(text.split()[0])
        died = HERE / f"died-{number}"
        if number in (17, 61, 88) and "default_worker" in sys.argv[0] and not died.exists():
            died.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 200:
            raise RuntimeError("no idea")
        return {"de": (number % 7) / 10, "en": 0.1, "fr": 0.05}


MASHBILL_PLUGINS = {"teachers": {"deadly": Deadly}}
'''


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """A maker of recipes whose teacher kills actors; numbers are the texts."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")

    def make(store, n=120):
        rows = [{"id": f"r{number}", "text": f"{number} words", "label": "de"} for number in range(n)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"buckets": 64, "dim": 4, "hidden": 4, "ngrams": [1, 2]}
        recipe = {
            "version": 1,
            "student": {
                "kind": "classifier",
                "architecture": "hashed_ngram",
                "labels": ["de", "en", "fr"],
                "options": options,
            },
            "teachers": [{"id": "t", "plugin": "deadly", "store": store, "batch_size": 2}],
            "data": {"format": "classification", "train": "train.jsonl"},
            "capture": {"shard_positions": 5},
            "output": "run",
        }
        path = tmp_path / f"{store}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make


def bytes_of(folder):
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


def command(*words):
    """Run the command in a process of its own: Ray keeps what a process writes to."""
    done = subprocess.run([sys.executable, "-m", "mashbill", *words], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.cluster
def test_actors_that_are_killed_lose_nothing(deadly, tmp_path):
    done = command("capture", str(deadly("cluster")), "--plugin", "deadly", "--ray", "2")
    assert done.returncode == 0, done.stderr
    died = {one.read_text() for one in tmp_path.glob("died-*")}
    assert len(died) == 3  # three processes, and the work went on
    assert command("capture", str(deadly("alone")), "--plugin", "deadly", "--workers", "1").returncode == 0
    assert bytes_of(tmp_path / "cluster" / "train") == bytes_of(tmp_path / "alone" / "train")
    assert verifying.verify(tmp_path / "cluster" / "train").is_whole
    plan = json.loads((tmp_path / "cluster/train/store.json").read_text())
    assert sum(shard["n_rows"] for shard in plan["shards"]) == 120


@pytest.mark.cluster
def test_what_stops_an_actor_is_one_clear_error_and_what_is_there_is_kept(deadly, tmp_path):
    for number in (17, 61, 88):
        (tmp_path / f"died-{number}").touch()
    done = command("capture", str(deadly("store", n=201)), "--plugin", "deadly", "--ray", "2")
    assert done.returncode == 3
    assert done.stderr.count("error:") == 1
    assert "RuntimeError: no idea" in done.stderr
    assert "INFO" not in done.stderr  # Ray's own talk
    assert len(list((tmp_path / "store/train/shards").glob("*.json"))) >= 30


def test_without_the_package_the_error_says_what_to_install(classification, capsys, monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    teachers = [{"id": "t", "plugin": "words", "store": "store"}]
    assert main(["capture", str(classification({"teachers": teachers, "weighting": {}}).path), "--ray", "2"]) == 2
    assert "pip install 'mashbill[ray]'" in capsys.readouterr().err


def task(number, folder):
    plan = Plan({}, "", Layout(3), (Shard(0, 0, 1, 1, ""),))
    return Task(number, "t", "train", folder, plan, 1, 0)


def test_an_actor_asks_for_a_gpu_where_a_teacher_does(language, tmp_path):
    teachers = [
        {"id": "a", "model": "a", "store": "x"},
        {"id": "b", "model": "b", "store": "y", "device": "cuda"},
        {"id": "c", "model": "c", "store": "z", "device_map": "auto"},
    ]
    loaded = language({"teachers": teachers, "capture.threads": 3})
    for numbers, needs in [([0], {"num_cpus": 3.0}), ([0, 1], None), ([2], None)]:
        found = on_ray.needs_of(loaded, [task(number, tmp_path) for number in numbers])
        assert found == (needs or {"num_cpus": 3.0, "num_gpus": 1.0})


def test_an_actor_that_cannot_start_says_why_at_every_shard(language, monkeypatch, tmp_path):
    def gone(*_):
        raise MashbillError("no such teacher", help="look for it")

    monkeypatch.setattr(on_ray, "askable_teachers", gone)
    actor = on_ray.Actor(language(), [task(0, tmp_path)], ())
    said = actor({"task": np.array([0]), "shard": np.array([0])})
    facts = {"what": "no such teacher", "where": "", "why": "", "help": "look for it"}
    assert json.loads(said["error"][0]) == ["MashbillError", facts]
    assert list(said["n_positions"]) == [0]
