"""A causal language model that runs here, from a folder on this machine, alone or with a LoRA adapter.

The model is opened at its first question: a run whose answers are already on disk never opens it. Logits are those that
the model returns, whatever it does between its last hidden state and them (soft caps, scales, biases). Not covered:
encoder-decoder models.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mashbill.errors import TeacherError, VocabularyError
from mashbill.shapes import Float, Int, Tensor
from mashbill.teachers.adapter_folder import AdapterFolder
from mashbill.teachers.bases import Base, Bases, OffLoad, model_folder
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.opening import DType, by_length, context_length, open_tokenizer
from mashbill.teachers.placing import DeviceMap, Place
from mashbill.teachers.positions import Columns, Reading, joined, require_numbers, score_logits, spread
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.vocabulary import Vocabulary, require_agreement


class LocalCausalLM:
    """A causal language model that shares the student's vocabulary.

    Args:
        id: Name in the recipe.
        path: Folder in the ``transformers`` layout, or the one that holds ``gguf_file``.
        vocabulary: The student's.
        gguf_file: Name of a GGUF file in the folder; needs the package ``gguf``.
        adapter: Folder of a LoRA adapter for the model; needs the package ``peft``.
        dtype: Of weights and activations; distributions are reduced in float32 at least.
        top_k: Entries kept a position; None keeps all ``V``. Statistics are exact either way.
        batch_size: Rows in a forward pass.
        device: Where the model runs; answers are on the CPU.
        device_map: Several devices instead of one, as ``accelerate`` takes them.
        off_load: What becomes of the model while others answer; see :mod:`mashbill.teachers.bases`.
        is_trusted: Code that lies in the folder may run.
        source: What the model is called in messages and records; the folder's name if left out.
        bases: Open models to share; teachers with the same model, dtype and device have it in memory once.
        columns: What its output says of the student's entries, if its ids are its own: rows then come in its ids, and
            no vocabularies are compared. None for a teacher with the student's ids.
        classes: Of the student's entries; their mass is measured of the full distribution.

    Raises:
        MashbillError: The folder is missing, or holds what must not be loaded or is no causal language model; the
            adapter or the device is none.
        VocabularyError: The teacher's ids mean something else.
    """

    def __init__(
        self,
        id: str,
        path: Path | str,
        vocabulary: Vocabulary,
        *,
        gguf_file: str | None = None,
        adapter: Path | str | None = None,
        dtype: DType = "float32",
        top_k: int | None = 64,
        batch_size: int = 16,
        device: str = "cpu",
        device_map: DeviceMap | None = None,
        off_load: OffLoad = "auto",
        is_trusted: bool = False,
        source: str | None = None,
        bases: Bases | None = None,
        columns: Reading | None = None,
        classes: EntryClasses = NO_CLASSES,
    ) -> None:
        self.id, self.vocabulary, self.classes = id, vocabulary, classes
        self.dtype: DType = dtype
        self.top_k, self.batch_size = top_k, batch_size
        self.folder = model_folder(path, gguf_file, is_trusted=is_trusted)
        self.folder.require_head("causal_lm", teacher_id=id)
        self.source = source or gguf_file or Path(path).name
        self.adapter = None if adapter is None else AdapterFolder(Path(adapter))
        if self.adapter is not None:
            self.adapter.require_base(self.source, "causal_lm", teacher_id=id)
        self.place = Place.of(device, device_map, teacher_id=id)
        self._columns: Reading = Columns.of(vocabulary) if columns is None else columns
        self._own = Vocabulary.from_tokenizer(open_tokenizer(self.folder, teacher_id=id))
        if columns is None:
            require_agreement(vocabulary, self._own, teacher_id=id)
        base = Base("AutoModelForCausalLM", self.folder, dtype, self.place)
        self.lease = (bases or Bases()).lease(base, teacher_id=id, adapter=self.adapter, off_load=off_load)

    @property
    def model(self) -> Any:
        """The model, opened at its first use; it speaks as this teacher until another one asks for it."""
        model = self.lease.model()
        n_rows, needed = model.get_output_embeddings().weight.shape[0], self._columns.n_rows
        if n_rows < needed:
            raise VocabularyError(
                f"teacher `{self.id}` has {n_rows:,} output rows, but the student has ids up to {needed - 1:,}",
                where=f"teachers.{self.id}",
                help="the teacher's tokenizer has tokens that its model was never given; use the matching tokenizer",
            )
        return model

    def release(self) -> None:
        """Say that there are no more questions for now; the next one opens the model again if it had to go."""
        self.lease.done()

    def score(self, inputs: Inputs) -> Scored:
        """Return distributions and exact statistics at every position that counts, ``[B T]``.

        Only positions up to a row's last counted one are fed: a causal model does not see what comes after. Rows
        run sorted by that length, so that little padding is computed. Other positions hold the uniform distribution.

        Raises:
            TeacherError: Logits are not numbers, or a row is longer than the model can read; names the row.
        """
        if inputs.input_ids is None:
            raise ValueError("inputs.input_ids=None: a causal language model needs the student's token ids")
        n_rows, n_positions = inputs.mask.shape
        ends, model = _ends(inputs), self.model
        self._require_room(ends, inputs, model)
        parts, places = [], []
        for rows in by_length(ends, self.batch_size):
            length = int(ends[rows].max())
            counted = inputs.mask[rows, :length]
            logits = self._forward(model, inputs.input_ids[rows, :length], ends[rows]).flatten(0, 1)
            index, labels = counted.flatten().nonzero().squeeze(1), inputs.labels[rows, :length][counted]
            parts.append(score_logits(logits, index, labels, self._columns, top_k=self.top_k, classes=self.classes))
            places.append((rows.unsqueeze(1) * n_positions + torch.arange(length))[counted])
        if not parts:
            raise ValueError("inputs.mask counts no position; there is nothing to ask")
        scored = spread(joined(parts), torch.cat(places), (n_rows, n_positions))
        require_numbers(scored, inputs, teacher_id=self.id)
        return scored

    def require_fit(self, inputs: Inputs) -> None:
        """Refuse rows that the model cannot read, without asking about them.

        Raises:
            TeacherError: A row is longer than the model's context; names it.
        """
        self._require_room(_ends(inputs), inputs, self.model)

    def identity(self) -> Mapping[str, str]:
        """Return the sha256 of weights and configuration, both vocabularies, and every option that changes answers."""
        return {
            "kind": "causal_lm",
            "source": self.source,
            **self.lease.pins(),
            "tokenizer": self._own.digest,
            "vocabulary": f"{self.vocabulary.digest} {len(self.vocabulary)}",
            "dtype": self.dtype,
            "top_k": str(self.top_k),
            **self.classes.pins,
            **({} if self.place.kind == "cpu" else {"device": self.place.kind}),
        }

    def _require_room(self, ends: Int[Tensor, " B"], inputs: Inputs, model: Any) -> None:
        most, longest = context_length(model.config), int(ends.max())
        if most is None or longest <= most:
            return
        raise TeacherError(
            f"teacher `{self.id}` reads {most:,} tokens at most, and a row has {longest:,}",
            where=f"row `{inputs.row_ids[int(ends.argmax())]}`",
            why="beyond its context a model answers without having learnt to, if at all",
            help=f"set `data.max_length: {most}` or less, and longer rows become several; or use another teacher",
        )

    @torch.no_grad()  # not inference_mode: its tensors cannot take part in a loss later
    def _forward(self, model: Any, ids: Tensor, ends: Tensor) -> Float[Tensor, "B T V"]:
        attended = torch.arange(ids.shape[1]) < ends.unsqueeze(1)
        # What lies behind a row's end may be any filler; id 0 exists in every model.
        fed, device = torch.where(attended, ids, 0), model.get_input_embeddings().weight.device
        return model(input_ids=fed.to(device), attention_mask=attended.long().to(device), use_cache=False).logits


def _ends(inputs: Inputs) -> Int[Tensor, " B"]:
    """Return how much of each row a causal model has to read: up to the last position that counts."""
    return torch.where(inputs.mask, torch.arange(inputs.mask.shape[1]) + 1, 0).amax(dim=1)
