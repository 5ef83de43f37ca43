"""The model card of an exported student: what it is, who taught it, what was measured, how to load it."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

_USE = {
    "hashed_ngram": """from student import load  # the file beside this one; needs torch, numpy and safetensors

model = load(".")
model.predict(["Bonjour tout le monde"])""",
    "causal_lm": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")""",
    "classifier": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")""",
    "adapter": """from peft import AutoPeftModel  # the adapter alone; its base model is named above

model = AutoPeftModel.from_pretrained(".")""",
    "plugin": """from pathlib import Path

from mashbill.train.students import load_student  # with the package that provides the architecture

student = load_student(Path("."))""",
}
Form = str


def model_card(
    name: str, *, form: Form, run: Mapping[str, Any], result: Mapping[str, Any] | None, has_comparison: bool = False
) -> str:
    """Return ``README.md``: YAML front matter as model hubs read it, then text for people.

    Args:
        name: Of the model.
        form: How it is loaded: ``hashed_ngram``, ``causal_lm``, ``classifier``, ``adapter`` or ``plugin``.
        run: Content of ``run.json``.
        result: Content of ``result.json``, if the run was evaluated.
        has_comparison: Whether the run stands beside others in ``comparison.json``.
    """
    student = run.get("student", {})
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(name, form, student, result), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        _what(run, student),
        "## Use\n\n```python\n" + _USE[form] + "\n```",
        "## Teachers\n\n" + _teachers(run.get("teachers", [])),
        "## Measured\n\n" + _measured(result),
        "## Limits\n\n" + _limits(result, has_comparison=has_comparison),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    name: str, form: Form, student: Mapping[str, Any], result: Mapping[str, Any] | None
) -> dict[str, Any]:
    is_transformers = form in ("causal_lm", "classifier")
    is_causal = student.get("kind") == "causal_lm"
    front: dict[str, Any] = {
        "library_name": {"adapter": "peft"}.get(form, "transformers" if is_transformers else "pytorch")
    }
    base = _base_name(student)
    if base:
        front |= {"base_model": base, "base_model_relation": "adapter" if form == "adapter" else "finetune"}
    task = "text-generation" if is_causal else "text-classification"
    front |= {"pipeline_tag": task, "tags": ["distillation", "mashbill"]}
    if result is not None and result["entries"]:
        front["model-index"] = [{"name": name, "results": list(_index(result, task))}]
    return front


def _index(result: Mapping[str, Any], task: str):
    for entry in result["entries"]:
        if entry["who"] == "student" and entry["by"] == "all":
            metrics = [
                {
                    "type": measure,
                    "value": round(entry[measure]["value"], 6),
                    "name": _with_ends(measure, entry[measure], result),
                }
                for measure in ("accuracy", "perplexity")
                if entry.get(measure)
            ]
            yield {"task": {"type": task}, "dataset": {"name": entry["set"], "type": entry["set"]}, "metrics": metrics}


def _with_ends(measure: str, interval: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    return f"{measure}, {100 * result['confidence']:g} % interval {_ends(interval) or 'unknown'}"


def _what(run: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    kind = {"causal_lm": "causal language model", "classifier": "text classifier"}.get(student.get("kind", ""), "model")
    size = f" of {student['n_parameters']:,} parameters" if student.get("n_parameters") else ""
    return (
        f"A {kind}{size}, distilled from {len(run.get('teachers', []))} teacher(s) with mashbill "
        f"{run.get('mashbill', '')}, seed {run.get('seed')}. `teacher_manifest.json` pins down the teachers, "
        "`recipe.yaml` the run."
    )


def _teachers(teachers: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _cell(each.get("id")),
            _cell(each.get("kind")),
            _cell(_short(each.get("source"))),
            _cell((each.get("sha256") or "")[:12]),
        ]
        for each in teachers
    ]
    return _table(["teacher", "kind", "source", "sha256"], rows)


def _measured(result: Mapping[str, Any] | None) -> str:
    entries = [entry for entry in (result or {}).get("entries", []) if entry["by"] == "all"]
    if result is None or not entries:
        return "Not evaluated on labelled rows."
    primary = result["primary"]
    rows = [
        [
            _cell(entry["set"]),
            _cell(_who(entry["who"])),
            str(entry["n"]),
            _number(entry[primary]),
            _number(entry["loss"]),
            f"{entry['calibration_error']:.4f}",
        ]
        for entry in entries
    ]
    return (
        _table(["set", "who", "n", primary, "loss (nats)", "calibration error"], rows)
        + f"\n\nIn brackets: {100 * result['confidence']:g} % confidence intervals, with rows as the sampled units. "
        "*Pooled target*: the teachers under the run's weights."
    )


def _limits(result: Mapping[str, Any] | None, *, has_comparison: bool) -> str:
    lines = [
        "- Measured on the sets above alone; other data may differ.",
        "- It repeats mistakes that its teachers share.",
    ]
    if result is not None and not any(entry.get("safety") for entry in result["entries"]):
        lines.append("- No rows were declared critical: nothing is known of its safety.")
    if not has_comparison:
        lines.append("- One seed: how much another would change the figures was not measured.")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "–"
    ends = _ends(interval)
    return f"{interval['value']:.4g}" + (f" {ends}" if ends else "")


def _ends(interval: Mapping[str, Any]) -> str:
    if interval["low"] is None or interval["high"] is None:
        return ""
    return f"[{interval['low']:.4g}, {interval['high']:.4g}]"


def _who(who: str) -> str:
    return "pooled target" if who == "pool" else who.replace("teacher:", "teacher ")


def _cell(value: object) -> str:
    """Make a value fit a table: no column borders, line breaks or markup of its own."""
    text = " ".join(str(value if value is not None else "").split())
    for mark in "\\|`<>[]*":
        text = text.replace(mark, f"\\{mark}")
    return text


def _short(source: object) -> str:
    """Name a local path by its last part: where it lay on somebody's disk is nobody's business."""
    text = str(source or "")
    return PurePath(text).name if PurePath(text).is_absolute() or text.startswith((".", "~")) else text


def _base_name(student: Mapping[str, Any]) -> str:
    source = str(student.get("source") or "")
    is_model = bool(source) and source != "config" and bool(student.get("sha256"))
    return _short(source) if is_model else ""
