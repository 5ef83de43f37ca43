"""Small stores with answers drawn at random, which tests fill, damage and read."""

import hashlib
from dataclasses import fields

import numpy as np
import torch

from mashbill.distributions import Dense, Statistics, TopK, measure
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.store.columns import Answered
from mashbill.teachers.store.content import content_of
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, cut

V = 300
MOST_POSITIONS = 16
CLASSES = ("rare", "common")


def inputs(n_rows=10, seed=0, n_positions=7):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, n_positions + 1, (n_rows,), generator=generator)
    mask = torch.arange(n_positions) < lengths.unsqueeze(1)
    mask &= torch.rand(n_rows, n_positions, generator=generator) < 0.8
    ids = torch.randint(V, (n_rows, n_positions), generator=generator)
    labels = torch.where(mask, torch.randint(V, (n_rows, n_positions), generator=generator), -100)
    row_ids = tuple(f"row {n}" for n in range(n_rows))
    return Inputs(row_ids, tuple(f"text {n}" for n in range(n_rows)), ids, labels, mask)


def truth(asked, *, temperature=1.0):
    """Return the dense answers to some rows, which depend on nothing but a row's id and the position."""
    each = []
    for row_id in asked.row_ids:
        seed = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:6], "little")
        # A fixed number of them, since the last numbers drawn depend on how many are.
        drawn = torch.randn(MOST_POSITIONS, V, generator=torch.Generator().manual_seed(seed)) * 3
        each.append(drawn[: asked.mask.shape[1]])
    drawn = torch.stack(each) if each else torch.zeros(0, asked.mask.shape[1], V)
    return Dense.from_logits(drawn / temperature)


def scored(asked, *, k=64, classes=CLASSES):
    dense = truth(asked)
    of = torch.arange(V) % 3 - 1 if classes else None
    statistics = measure(dense, labels=asked.labels, classes=of, n_classes=len(classes))
    return Scored(TopK.from_logprobs(dense.logprobs, k=k), statistics)


def answered(asked, rows, *, k=64, classes=CLASSES, refused=()):
    index = list(rows)
    here = Inputs(
        tuple(asked.row_ids[n] for n in index),
        tuple(asked.texts[n] for n in index),
        asked.input_ids[index],
        asked.labels[index],
        asked.mask[index],
    )
    said = scored(here, k=k, classes=classes)
    topk = said.distribution
    numbers = {field.name: getattr(said.statistics, field.name)[here.mask] for field in fields(said.statistics)}
    kept = TopK(topk.ids[here.mask], topk.logprobs[here.mask], topk.log_tail[here.mask], V)
    flat = Scored(kept, Statistics(**numbers))
    counts = here.mask.sum(1).numpy()
    return Answered(
        here.row_ids,
        tuple(content_of(here, n) for n in range(len(index))),
        tuple(row[: _end(counted)].numpy() for row, counted in zip(here.input_ids, here.mask, strict=True)),
        np.concatenate([[0], counts.cumsum()]),
        here.mask.nonzero()[:, 1].numpy(),
        flat,
        tuple("it is too rude" if n in refused else "" for n in index),
    )


def _end(counted):
    return int(counted.nonzero().max()) + 1 if counted.any() else 0


def plan_of(asked, *, at_most=16, layout=None, teacher=None):
    layout = layout or Layout(V, classes=CLASSES)
    contents = [content_of(asked, n) for n in range(len(asked.row_ids))]
    shards = cut(asked.mask.sum(1).tolist(), asked.row_ids, contents, at_most=at_most)
    return Plan(teacher or {"kind": "test", "source": "noise"}, "vocabulary", layout, shards)
