"""A causal language model that runs here, from a folder on this machine.

The model is opened at its first question: a run whose answers are already on disk never opens it. Not covered:
encoder-decoder models, and code that comes with a model (see :mod:`mashbill.teachers.folder`).
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mashbill.errors import VocabularyError
from mashbill.shapes import Float, Tensor
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.opening import DType, by_length, open_model, open_tokenizer
from mashbill.teachers.positions import Columns, joined, require_numbers, score_logits, spread
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.vocabulary import Vocabulary, require_agreement


class LocalCausalLM:
    """A causal language model that shares the student's vocabulary.

    Args:
        id: Name in the recipe.
        path: Folder in the ``transformers`` layout, or the one that holds ``gguf_file``.
        vocabulary: The student's.
        gguf_file: Name of a GGUF file in the folder; needs the package ``gguf``.
        dtype: Of weights and activations; distributions are reduced in float32 at least.
        top_k: Entries kept a position; None keeps all ``V``. Statistics are exact either way.
        batch_size: Rows in a forward pass.
        device: Where the model runs; answers are on the CPU.

    Raises:
        MashbillError: The folder is missing, or holds what must not be loaded.
        VocabularyError: The teacher's ids mean something else.
    """

    def __init__(
        self,
        id: str,
        path: Path | str,
        vocabulary: Vocabulary,
        *,
        gguf_file: str | None = None,
        dtype: DType = "float32",
        top_k: int | None = 64,
        batch_size: int = 16,
        device: str = "cpu",
    ) -> None:
        self.id, self.folder, self.vocabulary = id, ModelFolder(Path(path), gguf_file), vocabulary
        self.dtype: DType = dtype
        self.top_k, self.batch_size, self.device = top_k, batch_size, device
        self._columns = Columns.of(vocabulary)
        self._own = Vocabulary.from_tokenizer(open_tokenizer(self.folder, teacher_id=id))
        require_agreement(vocabulary, self._own, teacher_id=id)

    @cached_property
    def model(self) -> Any:
        """The model, opened at its first use."""
        model = open_model(
            "AutoModelForCausalLM", self.folder, teacher_id=self.id, dtype=self.dtype, device=self.device
        )
        n_rows, needed = model.get_output_embeddings().weight.shape[0], max(self.vocabulary.tokens) + 1
        if n_rows < needed:
            raise VocabularyError(
                f"teacher `{self.id}` has {n_rows:,} output rows, but the student has ids up to {needed - 1:,}",
                where=f"teachers.{self.id}",
                help="the teacher's tokenizer has tokens that its model was never given; use the matching tokenizer",
            )
        return model

    def release(self) -> None:
        """Let the model go; the next question opens it again."""
        self.__dict__.pop("model", None)

    def score(self, inputs: Inputs) -> Scored:
        """Return distributions and exact statistics at every position that counts, ``[B T]``.

        Only positions up to a row's last counted one are fed: a causal model does not see what comes after. Rows
        run sorted by that length, so that little padding is computed. Other positions hold the uniform distribution.

        Raises:
            TeacherError: Logits are not numbers; names row and position.
        """
        if inputs.input_ids is None:
            raise ValueError("inputs.input_ids=None: a causal language model needs the student's token ids")
        n_rows, n_positions = inputs.mask.shape
        ends = torch.where(inputs.mask, torch.arange(n_positions) + 1, 0).amax(dim=1)
        parts, places = [], []
        for rows in by_length(ends, self.batch_size):
            length = int(ends[rows].max())
            counted = inputs.mask[rows, :length]
            logits = self._forward(inputs.input_ids[rows, :length], ends[rows]).flatten(0, 1)
            index, labels = counted.flatten().nonzero().squeeze(1), inputs.labels[rows, :length][counted]
            parts.append(score_logits(logits, index, labels, self._columns, top_k=self.top_k))
            places.append((rows.unsqueeze(1) * n_positions + torch.arange(length))[counted])
        if not parts:
            raise ValueError("inputs.mask counts no position; there is nothing to ask")
        scored = spread(joined(parts), torch.cat(places), (n_rows, n_positions))
        require_numbers(scored, inputs, teacher_id=self.id)
        return scored

    def identity(self) -> Mapping[str, str]:
        """Return the sha256 of weights and configuration, both vocabularies, and every option that changes answers."""
        return {
            "kind": "causal_lm",
            "source": self.folder.gguf_file or self.folder.path.name,
            **self.folder.pins,
            "tokenizer": self._own.digest,
            "vocabulary": f"{self.vocabulary.digest} {len(self.vocabulary)}",
            "dtype": self.dtype,
            "top_k": str(self.top_k),
        }

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in a loss later
    def _forward(self, ids: Tensor, ends: Tensor) -> Float[Tensor, "B T V"]:
        attended = torch.arange(ids.shape[1]) < ends.unsqueeze(1)
        # What lies behind a row's end may be any filler; id 0 exists in every model.
        fed = torch.where(attended, ids, 0).to(self.device)
        return self.model(input_ids=fed, attention_mask=attended.long().to(self.device), use_cache=False).logits
