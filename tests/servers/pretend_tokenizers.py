"""Small tokenizers of the kinds that servers and students have."""

from functools import lru_cache
from typing import Any

TEXT = "The capital of France is Paris, and the capital of Italy is Rome. One, two, three, four, five. "


@lru_cache(maxsize=4)
def make_tokenizer(size: int = 300, *, seed: str = TEXT) -> Any:
    """Return a byte-level tokenizer of ``transformers`` with ``<end>`` as its only control token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([seed] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


@lru_cache(maxsize=1)
def make_llama_tokenizer() -> Any:
    """Return one as Llama 2 has it: ``<s>`` and a space before every text, and spaces as marks."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)],
    )
    special = ["<end>", "<s>", "<unk>"]
    alphabet = [*map(chr, range(33, 127)), "\n", "\u2581"]
    trainer = trainers.BpeTrainer(
        vocab_size=180, special_tokens=special, show_progress=False, max_token_length=6, initial_alphabet=alphabet
    )
    inner.train_from_iterator([TEXT, "Rome Rome thecapital"] * 4, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<end>", unk_token="<unk>")
