"""Compile every GPU kernel ahead of time, without a GPU, and say what each needs: ``python compile_triton.py 80 90``.

Further words narrow it to variants whose names hold them all; ``--few`` takes one of each kind.

Prints a JSON object: for each variant ``registers``, ``stack`` and ``local`` (bytes of spilled registers, if not 0) and
``shared`` (bytes). Runs by itself, because a process that interprets kernels cannot compile them.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mashbill.losses import triton as host
from mashbill.losses import triton_mix, triton_rows, triton_scope

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SIZES = ("n_rows", "n_positions", "n_entries", "n_slots", "n_dense", "n_topk")
NUMBERS = ("inv_temperature", "weight", "label_weight", "beta", "log_beta", "log_rest")
# Base types of pointers; those of logits depend on the variant.
POINTERS = {
    "counted": "u8", "labels": "i64", "ids": "i32", "starts": "i32", "logprobs": "fp32", "log_tails": "fp32",
    "record": "fp32", "records": "fp32", "log_weights": "fp32", "divergence": "fp32", "cross_entropy": "fp32",
    "out": "fp32", "factor": "fp32",
}  # fmt: skip
LOGITS = ("scores", "student", "gradient")
FEW = (
    "normalise_rows bf16 soft=False",
    "normalise_rows fp32 soft=True",
    "normalise_rows bf16 topk=4",
    "measure_rows bf16",
    "complete_rows bf16",
    "scale_rows bf16",
    "mix_rows bf16 forward_kl dense=4 topk=0",
    "mix_rows fp32 forward_kl dense=4 topk=0",
    "mix_rows bf16 forward_kl dense=8 topk=0",
    "mix_rows bf16 reverse_kl dense=2 topk=2",
    "mix_rows bf16 js dense=4 topk=0",
    "mix_rows bf16 forward_kl dense=0 topk=4",
)


def variants() -> Iterator[tuple[str, object, str, dict]]:
    """Yield name, kernel, dtype of logits, and constants."""
    for dtype in ("bf16", "fp32"):
        for soft in (False, True):
            norm = {"IS_LOGPROB": False, "IS_SOFT": soft, "N_TOPK": 0}
            yield f"normalise_rows {dtype} soft={soft}", triton_rows.normalise_rows, dtype, norm
        outside = {"IS_LOGPROB": False, "IS_SOFT": True, "N_TOPK": 4}
        yield f"normalise_rows {dtype} topk=4", triton_rows.normalise_rows, dtype, outside
        yield f"measure_rows {dtype}", triton_rows.measure_rows, dtype, {"HAS_LABELS": True}
        yield f"complete_rows {dtype}", triton_rows.complete_rows, dtype, {"IS_SHAPED": True, "CHUNK": 32}
        yield f"scale_rows {dtype}", triton_mix.scale_rows, dtype, {}
        for kind in triton_scope.KINDS:
            for n_dense, n_topk in ((1, 0), (4, 0), (8, 0), (0, 4), (2, 2)):
                if dtype == "fp32" and (n_dense, n_topk) not in ((4, 0), (0, 4)):
                    continue
                mix = {"KIND": kind, "N_DENSE": n_dense, "N_TOPK": n_topk}
                mix |= {"HAS_LABELS": True, "HAS_LABEL_WEIGHT": True, "WANTS_GRADIENT": True}
                yield f"mix_rows {dtype} {kind} dense={n_dense} topk={n_topk}", triton_mix.mix_rows, dtype, mix


def source(kernel, dtype: str, constants: dict) -> ASTSource:
    """Describe the arguments as a launch would: rows of a multiple of 16 entries, aligned."""
    if "BLOCK" in kernel.arg_names:
        is_mixed = "KIND" in constants or constants.get("N_TOPK", 0) > 0
        constants = constants | {"BLOCK": host.MIX_BLOCK if is_mixed else host.READ_BLOCK}
    n_dense = max(1, constants.get("N_DENSE", 0))
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name == "dense":
            signature[name] = (f"*{dtype}",) * n_dense
        elif name in ("strides_b", "strides_t"):
            signature[name] = ("i32",) * n_dense
        elif name in SIZES:
            signature[name] = "i32"
        elif name in NUMBERS:
            signature[name] = "fp32"
        elif name in LOGITS or name in POINTERS:
            signature[name] = f"*{dtype if name in LOGITS else POINTERS[name]}"
        else:
            signature[name] = "i32"
        if isinstance(signature[name], tuple):
            aligned |= {(place, k): [["tt.divisibility", 16]] for k in range(n_dense)}
        elif signature[name].startswith("*") or name not in (*NUMBERS, "n_positions", "n_slots", "n_dense", "n_topk"):
            aligned[(place,)] = [["tt.divisibility", 16]]
    aligned = {place: one for place, one in aligned.items() if signature[kernel.arg_names[place[0]]] != "constexpr"}
    return ASTSource(kernel, signature, constexprs=constants, attrs=aligned)


def needs(cubin: bytes) -> dict[str, int]:
    """Read a compiled kernel's use of resources."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "stack": found["STACK"], "local": found["LOCAL"], "shared": found["SHARED"]}


def main(arguments: list[str]) -> None:
    table = {}
    wanted = [word for word in arguments if not word.isdigit() and word != "--few"]
    for arch in (int(word) for word in arguments if word.isdigit()):
        for name, kernel, dtype, constants in variants():
            if any(word not in name for word in wanted) or ("--few" in arguments and name not in FEW):
                continue
            options = host.MIX_OPTIONS if name.startswith(("mix_rows", "complete_rows")) else host.READ_OPTIONS
            compiled = triton.compile(
                source(kernel, dtype, constants), target=GPUTarget("cuda", arch, 32), options=options
            )
            table[f"sm_{arch} {name}"] = needs(compiled.asm["cubin"])
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
