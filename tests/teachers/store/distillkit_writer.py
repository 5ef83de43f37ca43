"""Captures as DistillKit documents them, written here so that reading can be tested."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}
EXACT = {"k": 16, "exact_k": 16, "exact_dtype": "float32", "residual_bins": [], "delta_encoding": False}
RECOMMENDED = {
    "k": 128, "exact_k": 16, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"],
    "term_dtype": "float32", "residual_bins": [], "delta_encoding": False, "error_diffusion": False,
}  # fmt: skip
BUDGET = {
    "k": 50, "exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"],
    "term_dtype": "float32", "residual_bins": [], "delta_encoding": False, "error_diffusion": False,
}  # fmt: skip
PUBLISHED = {
    "k": 128, "exact_k": 32, "exact_dtype": "float32", "polynomial_terms": [0, 1, 2],
    "term_dtype": "float32", "residual_bins": [], "delta_encoding": True, "error_diffusion": False,
}  # fmt: skip
BINNED = {
    "k": 128, "exact_k": 16, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, "sqrt"], "term_dtype": "float32",
    "residual_bins": [
        {"scale_dtype": "float16", "element_bits": 8, "num_elements": 16},
        {"scale_dtype": "float32", "element_bits": 2, "num_elements": 64},
    ],
    "delta_encoding": False, "error_diffusion": False,
}  # fmt: skip


def bits_of(values, n_bits):
    """Write whole numbers ``[P n]`` one after the other, high bits first, and fill up the last byte."""
    each = (np.asarray(values)[..., None] >> np.arange(n_bits - 1, -1, -1)) & 1
    return np.packbits(each.reshape(len(each), -1).astype(np.uint8), axis=1)


def raw(values):
    return values.contiguous().view(torch.uint8).reshape(len(values), -1).numpy()


def ranks(terms, n, *, dtype, normalize):
    at = torch.linspace(0, 1, n, dtype=dtype) if normalize else torch.arange(n, dtype=dtype)
    return torch.stack([getattr(torch, one)(at) if isinstance(one, str) else at**one for one in terms], -1)


def squeezed(values, one):
    """Return a bin's scale and multiples as bytes."""
    n_bits = one["element_bits"]
    top = 1.0 if n_bits == 1 else 2.0 ** (n_bits - 1)
    largest = values.abs().amax(1, keepdim=True)
    scale = torch.where(largest == 0, 1.0, largest / top).to(DTYPES[one["scale_dtype"]])
    low, high = (0, 1) if n_bits == 1 else (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1)
    multiples = (values / scale.float()).round().clamp(low, high) - low
    return [raw(scale), bits_of(multiples.long().numpy(), n_bits)]


def compressed(ids, logprobs, settings):
    """Return the bytes of log-probabilities and of ids, of lists ``[P k]`` in descending order."""
    n_exact, logprobs = settings["exact_k"], logprobs.float()
    if settings.get("delta_encoding", True):
        logprobs = torch.cat([logprobs[:, :1], logprobs.diff(dim=1)], 1)
    chunks = [raw(logprobs[:, :n_exact].to(DTYPES[settings.get("exact_dtype", "float32")]))] if n_exact else []
    left = logprobs[:, n_exact:]
    terms = settings.get("polynomial_terms")
    if terms:
        dtype = DTYPES[settings.get("term_dtype", "float32")]
        normalize = settings.get("normalize_t", False)
        wide = ranks(terms, left.shape[1], dtype=torch.float64, normalize=normalize)
        found = (torch.linalg.pinv(wide) @ left.double().T).T.to(dtype)
        chunks.append(raw(found))
        narrow = ranks(terms, left.shape[1], dtype=dtype, normalize=normalize)
        left = left - (narrow * found.unsqueeze(1)).sum(-1).float()
    for one in settings["residual_bins"]:
        chunks += squeezed(left[:, : one["num_elements"]], one)
        left = left[:, one["num_elements"] :]
    n_bits = int(np.ceil(np.log2(np.float32(settings["d"]))))
    return np.concatenate(chunks, axis=1), bits_of(ids.numpy(), n_bits)


def write_capture(folder, rows, settings, *, rows_a_file=3, row_group_size=2, columns=None):
    """Write a capture of rows ``(input_ids, ids [P k], logprobs [P k])``."""
    folder.mkdir(parents=True)
    (folder / "compression_config.yaml").write_text(yaml.safe_dump(settings))
    nested = pa.list_(pa.list_(pa.uint8()))
    schema = pa.schema(
        [("input_ids", pa.list_(pa.uint64())), ("compressed_logprobs", nested), ("bytepacked_indices", nested)]
    )
    for number, first in enumerate(range(0, len(rows), rows_a_file)):
        packed = [
            (tokens, *compressed(ids, logprobs, settings))
            for tokens, ids, logprobs in rows[first : first + rows_a_file]
        ]
        values = {
            "input_ids": [list(tokens) for tokens, _, _ in packed],
            "compressed_logprobs": [one.tolist() for _, one, _ in packed],
            "bytepacked_indices": [one.tolist() for _, _, one in packed],
        }
        table = pa.table({name: values[name] for name in schema.names}, schema=schema)
        pq.write_table(
            table.select(columns or schema.names), folder / f"data_{number}.parquet", row_group_size=row_group_size
        )
    return folder
