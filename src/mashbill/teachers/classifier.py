"""A sequence classifier that runs here, from a folder on this machine.

It reads text with a tokenizer of its own; only its labels have to mean something to the student. Not covered: models
that give several labels at once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mashbill.distributions.statistics import measure
from mashbill.errors import MashbillError, TeacherError
from mashbill.shapes import Float, Tensor
from mashbill.teachers.adapter_folder import AdapterFolder
from mashbill.teachers.bases import Base, Bases, OffLoad, model_folder
from mashbill.teachers.entry_classes import NO_CLASSES, EntryClasses
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.labels import LabelMap, Outside
from mashbill.teachers.opening import DType, by_length, open_tokenizer
from mashbill.teachers.placing import DeviceMap, Place
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.vocabulary import Vocabulary

NO_LIMIT = 10**6
"""Tokenizers without a length limit say one far above this."""


class LocalClassifier:
    """A sequence classifier with a tokenizer of its own, heard in the student's labels.

    Args:
        id: Name in the recipe.
        path: Folder in the ``transformers`` layout.
        student_labels: The student's labels, in the order of axis ``V``.
        mapping: ``{label of the teacher: label of the student}``; other labels map to the same text.
        outside: What becomes of the mass on labels that the student lacks, as for plug-ins.
        adapter: Folder of a LoRA adapter for the model; needs the package ``peft``.
        dtype: Of weights and activations.
        batch_size: Texts in a forward pass.
        device: Where the model runs; answers are on the CPU.
        device_map: Several devices instead of one, as ``accelerate`` takes them.
        off_load: What becomes of the model while others answer; see :mod:`mashbill.teachers.bases`.
        is_trusted: Code that lies in the folder may run.
        source: What the model is called in messages and records; the folder's name if left out.
        bases: Open models to share; teachers with the same model, dtype and device have it in memory once.
        classes: Of the student's labels, whose mass is measured.

    Raises:
        MashbillError: The folder is missing or holds what must not be loaded, or the model is no single-label
            classifier; the adapter or the device is none.
        VocabularyError: No label is common, or ``mapping`` names a label that does not exist.
    """

    def __init__(
        self,
        id: str,
        path: Path | str,
        student_labels: Sequence[str],
        *,
        mapping: Mapping[str, str] | None = None,
        outside: Outside = "condition",
        adapter: Path | str | None = None,
        dtype: DType = "float32",
        batch_size: int = 16,
        device: str = "cpu",
        device_map: DeviceMap | None = None,
        off_load: OffLoad = "auto",
        is_trusted: bool = False,
        source: str | None = None,
        bases: Bases | None = None,
        classes: EntryClasses = NO_CLASSES,
    ) -> None:
        self.id, self.source, self.classes = id, source or Path(path).name, classes
        self.folder = model_folder(path, None, is_trusted=is_trusted)
        self.folder.require_head("classifier", teacher_id=id)
        self.outside: Outside = outside
        self.dtype: DType = dtype
        self.batch_size = batch_size
        self.adapter = None if adapter is None else AdapterFolder(Path(adapter))
        if self.adapter is not None:
            self.adapter.require_base(self.source, "classifier", teacher_id=id)
        self.place = Place.of(device, device_map, teacher_id=id)
        native = _class_names(self.folder, id)
        self.labels = LabelMap.build(native, tuple(student_labels), mapping or {}, teacher_id=id)
        self._tokenizer = open_tokenizer(self.folder, teacher_id=id)
        if self._tokenizer.pad_token is None and batch_size > 1:
            raise MashbillError(
                f"the tokenizer of teacher `{id}` has no padding token",
                where=f"teachers.{id}",
                help="set `batch_size: 1`, or name a `pad_token` in tokenizer_config.json",
            )

        base = Base("AutoModelForSequenceClassification", self.folder, dtype, self.place)
        self.lease = (bases or Bases()).lease(base, teacher_id=id, adapter=self.adapter, off_load=off_load)

    @property
    def covered(self) -> tuple[str, ...]:
        """The student's labels that this teacher can name."""
        return self.labels.covered

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The student's labels that this teacher cannot name."""
        return self.labels.uncovered

    @property
    def model(self) -> Any:
        """The model, opened at its first use; it speaks as this teacher until another one asks for it."""
        model = self.lease.model()
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self._tokenizer.pad_token_id
        return model

    def release(self) -> None:
        """Say that there are no more questions for now; the next one opens the model again if it had to go."""
        self.lease.done()

    def score(self, inputs: Inputs) -> Scored:
        """Return a distribution over the student's labels for each row, ``[B 1 S]``.

        Raises:
            TeacherError: Logits are not numbers; names the row.
        """
        encoded, model = self._encode(inputs.texts), self.model
        logprobs = torch.empty(len(encoded), len(self.labels.native))
        for rows in by_length(torch.tensor([len(ids) for ids in encoded]), self.batch_size):
            logprobs[rows] = self._forward(model, [encoded[row] for row in rows.tolist()])
        broken = logprobs.isnan().any(dim=1)
        if bool(broken.any()):
            raise TeacherError(
                f"teacher `{self.id}` gave logits that are not numbers",
                where=f"row `{inputs.row_ids[int(broken.nonzero()[0])]}`",
                help="check the teacher's weights, or load it with dtype float32 if it runs in float16",
            )
        listed = torch.ones_like(logprobs, dtype=torch.bool)
        one = self.labels.translate(logprobs.exp(), listed, outside=self.outside)
        return self.classes.measured(Scored(one, measure(one, labels=inputs.labels)))

    def identity(self) -> Mapping[str, str]:
        """Return the sha256 of weights and configuration, the tokenizer, and every option that changes answers."""
        return {
            "kind": "classifier",
            "source": self.source,
            **self.lease.pins(),
            "tokenizer": Vocabulary.from_tokenizer(self._tokenizer).digest,
            "labels": self.labels.digest,
            "outside": self.outside,
            "dtype": self.dtype,
            **self.classes.pins,
            **({} if self.place.kind == "cpu" else {"device": self.place.kind}),
        }

    @torch.no_grad()
    def _forward(self, model: Any, encoded: list[list[int]]) -> Float[Tensor, "B N"]:
        ids = torch.full((len(encoded), max(len(one) for one in encoded)), self._tokenizer.pad_token_id or 0)
        attended = torch.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, : len(one)], attended[row, : len(one)] = torch.tensor(one), 1
        device = model.get_input_embeddings().weight.device
        logits = model(input_ids=ids.to(device), attention_mask=attended.to(device)).logits
        return torch.log_softmax(logits.float(), dim=-1).cpu()

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        limits = (self._tokenizer.model_max_length, self.folder.config.get("max_position_embeddings"))
        limit = int(min(limit for limit in limits if limit))
        cut = {"truncation": True, "max_length": limit} if limit < NO_LIMIT else {}
        return self._tokenizer(list(texts), **cut)["input_ids"]


def _class_names(folder: ModelFolder, teacher_id: str) -> tuple[str, ...]:
    names = folder.config.get("id2label") or {}
    kind = folder.config.get("problem_type")
    if len(names) < 2 or kind in ("multi_label_classification", "regression"):
        raise MashbillError(
            f"the model of teacher `{teacher_id}` is no single-label classifier",
            where=f"teachers.{teacher_id} ({folder.path / 'config.json'})",
            why=f"problem_type={kind!r}, {len(names)} entries in id2label; its outputs are no distribution over labels",
            help="use a model trained for single-label classification, with its labels in id2label",
        )
    return tuple(names[index] for index in sorted(names, key=int))
