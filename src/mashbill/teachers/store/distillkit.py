"""What the bytes of a capture made with DistillKit mean.

At each position a capture holds ``k`` ids, bit by bit, and ``k`` log-probabilities in the order of their size. The
first few are numbers as they are; of the others only the coefficients of a curve over their rank is kept, and what the
curve misses of some of them, in few bits. A capture says how it was written in ``compression_config.yaml`` and nowhere
else.

Source: Arcee's DistillKit (github.com/arcee-ai/DistillKit), ``logprob_compressor`` in its documentation. Its older
form, ``legacy_logit_compression``, keeps scores without their normaliser, so that the mass of the tail is lost; it is
not read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mashbill.errors import MashbillError
from mashbill.shapes import Float, Int, Tensor

FILE = "compression_config.yaml"
DType = Literal["float16", "bfloat16", "float32", "float64"]
_PRECISION = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
# Significant bits; rounding to them changes a number by a 2**-bits part of it at most.


class _Part(BaseModel):
    """A key that nobody knows could mean another layout, so it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Bin(_Part):
    """What the curve misses of the next few entries, in multiples of one scale."""

    scale_dtype: DType
    element_bits: int = Field(gt=0, le=64)
    num_elements: int = Field(gt=0)

    @property
    def n_bytes(self) -> int:
        """Bytes of the scale and of the multiples."""
        return _width(self.scale_dtype) + -(-self.element_bits * self.num_elements // 8)


class Settings(_Part):
    """How a capture was written; names and meaning are DistillKit's.

    Attributes:
        d: Entries of the vocabulary; ids take as many bits as its largest needs.
        k: Entries kept of each distribution.
        exact_k: How many of them are kept as numbers.
        exact_dtype: Of those.
        polynomial_terms: Terms of the curve: powers of the rank, ``sqrt`` or ``exp`` of it.
        term_dtype: Of the coefficients.
        residual_bins: What is kept of the rest, from the first entry after the exact ones.
        delta_encoding: Each number is a difference to the one before.
        error_diffusion: Changes what is written and not how it is read.
        normalize_t: Ranks go from 0 to 1.
    """

    d: int = Field(gt=1)
    k: int = Field(gt=0)
    exact_k: int = Field(ge=0)
    exact_dtype: DType = "float32"
    polynomial_terms: list[int | Literal["sqrt", "exp"]] | None = None
    term_dtype: DType = "float32"
    residual_bins: list[Bin]
    delta_encoding: bool = True
    error_diffusion: bool = False
    normalize_t: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.exact_k > self.k:
            raise ValueError(f"exact_k={self.exact_k} is more than k={self.k}")
        if self.exact_k < self.k and not self.polynomial_terms and not self.residual_bins:
            raise ValueError(f"nothing is kept of entries {self.exact_k} to {self.k - 1}: no terms and no bins")
        if self.n_binned > self.k - self.exact_k:
            raise ValueError(f"the bins hold {self.n_binned} entries, and only {self.k - self.exact_k} are not exact")
        return self

    @property
    def n_binned(self) -> int:
        """Entries in bins."""
        return sum(one.num_elements for one in self.residual_bins)

    @property
    def index_bits(self) -> int:
        """Bits of an id; its logarithm is taken in float32, as where captures are written."""
        return math.ceil(float(torch.tensor(float(self.d), dtype=torch.float32).log2()))

    @property
    def index_bytes(self) -> int:
        """Bytes of a position's ids."""
        return -(-self.index_bits * self.k // 8)

    @property
    def logprob_bytes(self) -> int:
        """Bytes of a position's log-probabilities."""
        exact = self.exact_k * _width(self.exact_dtype)
        terms = len(self.polynomial_terms or ()) * _width(self.term_dtype)
        return exact + terms + sum(one.n_bytes for one in self.residual_bins)


def read_settings(path: Path) -> Settings:
    """Read how a capture was written, from its own file or from a recipe of DistillKit that reads it.

    Raises:
        MashbillError: There is no such file, or it does not say so.
    """
    help = f"give the {FILE} that was written beside the capture: --config FILE"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise MashbillError(f"cannot read how the capture was written: {reason}", where=str(path), help=help) from error
    values = _section(values)
    if "legacy_logit_compression" in values or "polynomial_degree" in values:
        raise MashbillError(
            "the capture has the form `legacy_logit_compression`, which is not read",
            where=str(path),
            why="it keeps scores without their normaliser, so nobody can tell how much mass the tail has",
            help="capture again with `logprob_compressor`",
        )
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{key}: {first['msg']}" if key else first["msg"]
        raise MashbillError(
            f"this does not say how a capture was written: {what}", where=str(path), help=help
        ) from error


def _section(values: Any) -> Mapping[str, Any]:
    for key in ("teacher", "logprob_compressor"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    return values if isinstance(values, dict) else {}


@dataclass(frozen=True)
class Restored:
    """What was kept at some positions.

    Attributes:
        ids: ``[P k]``.
        logprobs: Nats; ``-inf`` where the list was shorter.
        error: Most by which each can be off for what is written of it; infinite where only the curve is.
    """

    ids: Int[Tensor, "P k"]
    logprobs: Float[Tensor, "P k"]
    error: Float[Tensor, "P k"]


def restore(logprobs: np.ndarray, ids: np.ndarray, settings: Settings) -> Restored:
    """Return the entries kept at some positions.

    Args:
        logprobs: Bytes, ``[P settings.logprob_bytes]``.
        ids: Bytes, ``[P settings.index_bytes]``.
        settings: How they were written.
    """
    rest = torch.from_numpy(np.ascontiguousarray(logprobs))
    exact, rest = _numbers(rest, settings.exact_dtype, settings.exact_k)
    off = exact.abs() * 2.0 ** -_PRECISION[settings.exact_dtype] + _least(settings.exact_dtype)
    terms = settings.polynomial_terms or []
    coefficients, rest = _numbers(rest, settings.term_dtype, len(terms), widen=False)
    n_others = settings.k - settings.exact_k
    others, others_off = exact.new_zeros(len(exact), n_others), exact.new_full((len(exact), n_others), torch.inf)
    start = 0
    for one in settings.residual_bins:
        scale, rest = _numbers(rest, one.scale_dtype, 1)
        n_bytes = one.n_bytes - _width(one.scale_dtype)
        here = slice(start, start + one.num_elements)
        others[:, here] = _multiples(rest[:, :n_bytes].numpy(), one) * scale
        others_off[:, here] = _bin_off(scale.abs(), one)
        rest, start = rest[:, n_bytes:], start + one.num_elements
    if terms:
        # In the dtype of the coefficients: what the bins hold is what this sum missed, rounding and all.
        curve = (_basis(settings, n_others) * coefficients.unsqueeze(1)).sum(dim=-1)
        others = others + curve.double()
    values, off = torch.cat([exact, others], dim=1), torch.cat([off, others_off], dim=1)
    if settings.delta_encoding:
        values, off = values.cumsum(dim=1), off.cumsum(dim=1)
    found = unpacked(ids, settings.index_bits, settings.k)
    return Restored(torch.from_numpy(found.astype(np.int64)), values.float(), off.float())


def unpacked(packed: np.ndarray, n_bits: int, n: int) -> np.ndarray:
    """Return ``n`` whole numbers a row of ``n_bits`` each, the high bits first, uint64."""
    bits = np.unpackbits(np.ascontiguousarray(packed), axis=1)[:, : n * n_bits].reshape(len(packed), n, n_bits)
    found = np.zeros(bits.shape[:2], dtype=np.uint64)
    for place in range(n_bits):
        found = (found << np.uint64(1)) | bits[:, :, place]
    return found


def _multiples(packed: np.ndarray, one: Bin) -> Tensor:
    values = torch.from_numpy(unpacked(packed, one.element_bits, one.num_elements).astype(np.float64))
    return 2 * values - 1 if one.element_bits == 1 else values - 2.0 ** (one.element_bits - 1)


def _bin_off(scale: Tensor, one: Bin) -> Tensor:
    """Most by which an entry of a bin is off: half a step, and at the range's end a whole one with the scale's loss."""
    if one.element_bits == 1:
        return 1.5 * scale
    lost = scale * 2.0 ** -_PRECISION[one.scale_dtype] + _least(one.scale_dtype)
    return scale + lost * 2.0 ** (one.element_bits - 1)


def _least(dtype: DType) -> float:
    """Half of the least number: rounding is off by that even where numbers are tiny."""
    known = torch.finfo(getattr(torch, dtype))
    return known.tiny * known.eps / 2


def _basis(settings: Settings, n: int) -> Tensor:
    dtype = getattr(torch, settings.term_dtype)
    at = torch.linspace(0, 1, n, dtype=dtype) if settings.normalize_t else torch.arange(n, dtype=dtype)
    named = {"sqrt": torch.sqrt, "exp": torch.exp}
    terms = settings.polynomial_terms or []
    return torch.stack([named[one](at) if isinstance(one, str) else at**one for one in terms], dim=-1)


def _numbers(rest: Tensor, dtype: DType, n: int, *, widen: bool = True) -> tuple[Tensor, Tensor]:
    """Return the first ``n`` numbers of each row of bytes, and the bytes after them."""
    n_bytes, kind = n * _width(dtype), getattr(torch, dtype)
    found = rest[:, :n_bytes].contiguous().view(kind) if n else torch.zeros(len(rest), 0, dtype=kind)
    return found.double() if widen else found, rest[:, n_bytes:]


def _width(dtype: DType) -> int:
    return getattr(torch, dtype).itemsize
