"""vLLM over HTTP says what a local forward of the same weights says; ``make test-servers`` installs and runs it.

With ``MASHBILL_RECORD=1`` the figures are written to ``tests/servers/vllm.json``, which docs/endpoints.md shows.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.asked import FarModel, gaps, inputs_of

from mashbill.errors import TeacherError
from mashbill.teachers import LocalCausalLM, Vocabulary
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.opening import open_tokenizer

pytest.importorskip("gguf")

from servers.vllm_server import CACHE, saved, serving, vllm_python

PYTHON = vllm_python()
HERE = Path(__file__).resolve().parent
TEXTS = (
    "The capital of France is Paris.",
    "import os\nfor name in os.listdir('.'):\n    print(name)",
    "Naïve cafés cost 5 € — or more 🙂.",
)
FIGURES: dict[str, dict[str, float]] = {}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """SmolLM2's."""
    return open_tokenizer(ModelFolder(saved(CACHE), None), teacher_id="near")


@pytest.fixture(scope="module")
def near(tokenizer: Any) -> LocalCausalLM:
    """The same model in this process, all of its distribution."""
    return LocalCausalLM("near", CACHE, Vocabulary.from_tokenizer(tokenizer), top_k=None)


@pytest.fixture(scope="module")
def url(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model behind vLLM."""
    with serving(PYTHON, saved(CACHE), name="smollm2", log=tmp_path_factory.mktemp("vllm") / "log") as address:
        yield address
    if os.environ.get("MASHBILL_RECORD"):
        (HERE / "vllm.json").write_text(json.dumps(FIGURES, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def far(tokenizer: Any) -> Iterator[FarModel]:
    """Make the teacher behind an address."""
    makes = FarModel(tokenizer)
    yield makes
    makes.release()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "k"), [("auto", 20), ("vllm", 20), ("vllm", 1000), ("completions", 20), ("steps", 20)]
)
def test_numbers_over_http_are_those_of_a_local_forward(
    form: str, k: int, far: FarModel, near: Any, url: str, tokenizer: Any
) -> None:
    inputs = inputs_of(tokenizer, TEXTS)
    teacher = far(url, form, k)
    _ = teacher.form
    began = time.perf_counter()
    scored = teacher.score(inputs)
    seconds = time.perf_counter() - began
    assert scored.refused == {}
    assert teacher.form.name == ("vllm" if form == "auto" else form)
    assert getattr(teacher.form, "shift", 0) == 0
    nats, mass = gaps(scored, near.score(inputs), inputs.mask)
    FIGURES[f"{form}, {k}"] = {
        "positions": int(inputs.mask.sum()),
        "entries": len(nats),
        "most nats": float(nats.max()),
        "mean nats": float(nats.mean()),
        "most tail mass": float(mass.max()),
        "seconds": seconds,
        "requests": teacher.patience.n_attempts,
    }
    assert float(nats.max()) <= 1e-3
    assert float(mass.max()) <= 1e-3


@pytest.mark.slow
def test_a_limit_of_the_server_is_said(far: FarModel, url: str, tokenizer: Any) -> None:
    with pytest.raises(TeacherError, match=r"HTTP 400: .*1000") as told:
        far(url, "vllm", 2000).score(inputs_of(tokenizer, TEXTS[:1]))
    assert "smaller `top_logprobs`" in told.value.help


@pytest.mark.slow
def test_a_row_longer_than_the_context_is_refused(far: FarModel, url: str, tokenizer: Any) -> None:
    scored = far(url, "vllm").score(inputs_of(tokenizer, ["five", "word " * 600]))
    assert list(scored.refused) == [1]
    assert "HTTP 400" in scored.refused[1]
