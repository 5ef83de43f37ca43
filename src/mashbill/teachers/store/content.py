"""What is asked about a row, as a hash: a stored answer belongs to that question and to no other."""

import hashlib

import torch

from mashbill.teachers.protocol import Inputs


def content_of(inputs: Inputs, row: int) -> bytes:
    """Return the sha256 of everything that a teacher sees of one row: tokens, text, labels, which positions count.

    Padding does not count, so that the hash is the same in every batch.
    """
    text = inputs.texts[row].encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(len(text).to_bytes(8, "little") + text)
    places = inputs.mask[row].nonzero().squeeze(1)
    end = int(places[-1]) + 1 if len(places) else 0
    tokens = torch.zeros(0, dtype=torch.long) if inputs.input_ids is None else inputs.input_ids[row, :end]
    for values in (tokens, places, inputs.labels[row][places]):
        digest.update(len(values).to_bytes(8, "little") + values.long().cpu().numpy().tobytes())
    return digest.digest()
