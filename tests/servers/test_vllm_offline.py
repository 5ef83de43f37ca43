"""vLLM's offline engine says what a local forward of the same weights says; ``make test-servers`` installs and runs it.

With ``MASHBILL_RECORD=1`` the figures are written to ``tests/servers/vllm_offline.json``, which docs/cluster.md shows.
"""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf")

from servers.vllm_server import CACHE, ENVIRONMENT, saved, vllm_python

from mashbill.distributions import Dense, measure
from mashbill.teachers import LocalCausalLM, Vocabulary
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.opening import open_tokenizer
from mashbill.teachers.protocol import Inputs

PYTHON = vllm_python()
HERE = Path(__file__).resolve().parent
TEXTS = (
    "The capital of France is Paris.",
    "The capital of France is Paris, and that of Italy is Rome.",  # a prefix that a cache would know
    "import os\nfor name in os.listdir('.'):\n    print(name)",
    "Naïve cafés cost 5 € — or more 🙂.",
)


@pytest.mark.slow
def test_the_engine_says_what_a_local_forward_says() -> None:
    tokenizer = open_tokenizer(ModelFolder(saved(CACHE), None), teacher_id="near")
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    command = [PYTHON, str(HERE / "score_offline.py"), str(CACHE), json.dumps(rows), sysconfig.get_path("purelib")]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(HERE.parents[1] / "src")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert lines, done.stderr[-4000:]
    found = json.loads(lines[0].removeprefix("SAID "))
    first, second = found["said"][: len(rows)], found["said"][len(rows) :]
    near = LocalCausalLM("near", CACHE, Vocabulary.from_tokenizer(tokenizer), top_k=None)
    worst = {"kept": 0.0, "tail": 0.0, "label": 0.0, "again": 0.0}
    for ids, said, again in zip(rows, first, second, strict=True):
        tokens, labels = torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])
        mask = torch.ones_like(labels, dtype=torch.bool)
        whole = near.score(Inputs(("row",), ("",), tokens, labels, mask)).distribution.logprobs[0]
        exact = measure(Dense(whole), labels=labels[0])
        kept = torch.tensor(said["ids"])
        used, logprobs = kept >= 0, torch.tensor(said["logprobs"])
        truth = whole.gather(-1, kept.clamp_min(0))
        tail = 1 - (truth.double().exp() * used).sum(-1)
        worst["kept"] = max(worst["kept"], float((logprobs - truth)[used].abs().max()))
        worst["tail"] = max(worst["tail"], float((torch.tensor(said["log_tail"]).exp() - tail).abs().max()))
        gap = (torch.tensor(said["label_logprob"]) - exact.label_logprob).abs().max()
        worst["label"] = max(worst["label"], float(gap))
        worst["again"] = max(worst["again"], float((logprobs - torch.tensor(again["logprobs"]))[used].abs().max()))
        assert (torch.tensor(said["entropy_low"]) <= exact.entropy + 1e-3).all()
        assert (torch.tensor(said["entropy"]) >= exact.entropy - 1e-3).all()
    figures = {"engine": found["engine"], "n_positions": sum(len(ids) - 1 for ids in rows), **worst}
    print(figures)
    assert max(worst[name] for name in ("kept", "tail", "label")) < 1e-3
    assert worst["again"] < 1e-4
    if os.environ.get("MASHBILL_RECORD"):
        (HERE / "vllm_offline.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
