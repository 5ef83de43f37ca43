"""Everything that people get wrong: each gives exit code 2, one clear text, and leaves the disk as it was."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

RECIPE, TRAIN, EVAL, SCORECARD = "recipe.yaml", "data/train.jsonl", "data/eval.jsonl", "data/scorecard.jsonl"
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        name: What it is.
        change: Makes it.
        expected: Pattern that the message must match.
        arguments: Further arguments of ``validate``.
        recipe: The recipe's name, if not the usual one.
        n_errors: Separate problems that it is reported as.
    """

    name: str
    change: Change
    expected: str
    arguments: tuple[str, ...] = ()
    recipe: str = RECIPE
    n_errors: int = 1


def edit(old: str, new: str, *, file: str = RECIPE) -> Change:
    """Replace text that must be in the file."""

    def change(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text, old
        (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def write(content: str | bytes, *, file: str = RECIPE) -> Change:
    """Replace the whole file."""

    def change(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / file).write_bytes(raw)

    return change


def row(number: int, *, file: str = TRAIN, **values: object) -> Change:
    """Change columns of one row; None takes the column away."""

    def change(folder: Path) -> None:
        lines = (folder / file).read_text(encoding="utf-8").splitlines()
        record = json.loads(lines[number - 1]) | values
        lines[number - 1] = json.dumps({key: value for key, value in record.items() if value is not None})
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def line(number: int, content: bytes, *, file: str = TRAIN) -> Change:
    """Replace one line by raw bytes."""

    def change(folder: Path) -> None:
        lines = (folder / file).read_bytes().splitlines()
        lines[number - 1] = content
        (folder / file).write_bytes(b"\n".join(lines))

    return change


def append(text: str) -> Change:
    """Add to the end of the recipe."""
    return lambda folder: write((folder / RECIPE).read_text(encoding="utf-8") + text)(folder)


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def nothing(_: Path) -> None:
    """Leave everything as it is."""


def model_folder(*, config: str | None = "{}", weights: str | None = "model.safetensors", name: str = "m") -> Change:
    """Make a folder that looks like a model, more or less."""

    def change(folder: Path) -> None:
        (folder / name).mkdir()
        if config is not None:
            (folder / name / "config.json").write_text(config, encoding="utf-8")
        if weights is not None:
            (folder / name / weights).write_bytes(b"")

    return change


def module(content: str, *, name: str) -> Change:
    """Write a Python module beside the recipe."""
    return write(content, file=f"{name}.py")


FIRST_TEACHER = """    plugin: keywords
    options:
      words:
        billing: [invoice, refund, charged, receipt, bill, price, payment, paid, discount, account, billing]
        praise: [thank, thanks, great, love, perfectly, best, kind, excellent, wonderful, stars]
"""
TASK_RULE = "task: {rule: performance, temperature: 0.2}"
NO_SCORECARD = edit("  scorecard: data/scorecard.jsonl", "  #")
ORIGIN = "  architecture: hashed_ngram  "
CONTEXT = "  bounds: [0.05, 0.9] "

CASES = [
    # The file itself
    Case("no recipe", nothing, r"nowhere\.yaml: no such file\n.*recipes here: .*recipe\.yaml", recipe="nowhere.yaml"),
    Case("a folder", nothing, r"data: is a folder, not a recipe", recipe="data"),
    Case("empty recipe", write("# nothing\n"), r"the recipe is empty"),
    Case("a list", write("- version: 1\n"), r"a recipe is a mapping"),
    Case("huge recipe", write("#" + "x" * 1_000_001), r"larger than 1,000,000 bytes"),
    Case("not UTF-8", write(b"version: 1\nstudent: \xff\n"), r"recipe\.yaml:2: byte 20 is not UTF-8"),
    Case("control character", write("version: 1\na: \x07\n"), r"recipe\.yaml:2: not valid YAML: special characters"),
    Case("open bracket", write("version: 1\nteachers: [1, 2\ndata: {}\n"), r"recipe\.yaml:3: not valid YAML"),
    Case(
        "a tab",
        write("version: 1\nstudent:\n\tkind: classifier\n"),
        r"recipe\.yaml:3: .*\n.*spaces; YAML allows no tabs",
    ),
    Case("two documents", write("version: 1\n---\nversion: 1\n"), r"not valid YAML: expected a single document"),
    Case("nested too deep", write("a: " + "[" * 5000), r"nested more than 60 levels"),
    Case("nested deep", write("a: " + "[" * 100 + "]" * 100), r"nested more than 60 levels"),
    Case(
        "alias bomb",
        write(
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 10)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True))
        ),
        r"more than 20,000 values",
    ),
    Case(
        "alias of itself",
        write("version: 1\nstudent: &s {kind: *s}\n"),
        r"recipe\.yaml:2: an alias refers to what it stands in",
    ),
    Case(
        "duplicate key",
        append("train:\n  seed: 1\n"),
        r"recipe\.yaml:\d+: train: the key `train` is here twice, first on line \d+",
    ),
    Case(
        "duplicate nested key", edit("  seed: 0", "  seed: 0\n  seed: 1"), r"train\.seed: the key `seed` is here twice"
    ),
    Case(
        "python tag",
        edit("seed: 0", "seed: !!python/object/apply:os.system [ls]"),
        r"tag `!!python/object/apply:os.system` is refused",
    ),
    Case("own tag", edit("seed: 0", "seed: !env SEED"), r"the tag `!env` is refused"),
    Case("set tag", edit("seed: 0", "seed: !!set {a, b}"), r"the tag `!!set` is refused"),
    Case("key that is a list", append("[a, b]: 1\n"), r"a key must be plain text"),
    # Keys
    Case(
        "unknown top key",
        append("trian: {}\n"),
        r"recipe\.yaml:\d+: trian: unknown key `trian` — did you mean `train`\?",
    ),
    Case(
        "unknown nested key",
        edit("learning_rate", "learning_rat"),
        r"recipe\.yaml:56: train\.learning_rat: unknown key .* — did you mean `learning_rate`\?",
    ),
    Case(
        "unknown key in a list",
        edit("plugin: keywords", "plugn: keywords"),
        r"recipe\.yaml:16: teachers\[0\]\.plugn: .* — did you mean `plugin`\?",
    ),
    Case(
        "key in the wrong place",
        append("learning_rate: 1.0e-3\n"),
        r"unknown key `learning_rate` — it belongs under `train`",
    ),
    Case("key like nothing", append("colour: red\n"), r"unknown key `colour`; known here: version, student"),
    Case("merge key", edit("seed: 0", "<<: {seed: 1}"), r"unknown key `<<`"),
    Case("missing key", edit("output: runs/first", ""), r"recipe\.yaml: missing key `output`|missing key `output`"),
    Case("missing nested key", edit("  format: classification", "  #"), r"data\.format: missing key `format`"),
    Case("secret key", edit("    options:", "    options:\n      api_key: abc"), r"secrets do not belong in a recipe"),
    Case(
        "secret value", edit("id: office ", "id: sk-abcdefghijklmnop1234 "), r"teachers\[0\]\.id: looks like a secret"
    ),
    # Values
    Case("version 2", edit("version: 1", "version: 2"), r"recipe\.yaml:\d+: version: `2` is not a recipe version"),
    Case(
        "text for a number", edit("seed: 0", "seed: zero"), r"train\.seed: must be a whole number, not the text `zero`"
    ),
    Case("quoted number", edit("seed: 0", "seed: '0'"), r"must be a whole number, not the text `0`"),
    Case("fraction for a count", edit("seed: 0", "seed: 0.5"), r"must be a whole number"),
    Case(
        "number for text",
        edit("labels: [billing, ", "labels: [1, "),
        r"student\.labels\[0\]: must be text, not `1`; put it in quotes",
    ),
    Case("yes for true", edit("seed: 0", "bf16: yes"), r"train\.bf16: must be `true` or `false`, not the text `yes`"),
    Case(
        "list for a mapping",
        edit("options: {buckets: 4096, dim: 16, hidden: 32}", "options: [1]"),
        r"student\.options: must be a mapping",
    ),
    Case("negative rate", edit("5.0e-3", "-1"), r"train\.learning_rate: `-1` must be greater than 0"),
    Case("infinite rate", edit("5.0e-3", ".inf"), r"train\.learning_rate: must be a finite number"),
    Case("endless number", edit("seed: 0", "max_grad_norm: 1" + "0" * 500), r"train\.max_grad_norm: "),
    Case(
        "beta out of range",
        edit("{name: forward_kl}", "{name: js, beta: 1.5}"),
        r"distill\.divergence\.beta: `1\.5` must be less than 1",
    ),
    Case(
        "unknown divergence",
        edit("{name: forward_kl}", "{name: forwardkl}"),
        r"is not one of: forward_kl, .* — did you mean `forward_kl`\?",
    ),
    Case(
        "skew out of range",
        edit("{name: forward_kl}", "{name: skew_kl, skew: 0}"),
        r"distill\.divergence\.skew: `0` must be greater than 0",
    ),
    Case(
        "option of another divergence",
        edit("{name: forward_kl}", "{name: alpha, skew: 0.1}"),
        r"distill\.divergence: `skew` is an option of `skew_kl` and `reverse_skew_kl`; leave it out for `alpha`",
    ),
    Case(
        "unknown scheduler",
        edit("seed: 0", "lr_scheduler_type: cosin"),
        r"train\.lr_scheduler_type: .* — did you mean `cosine`\?",
    ),
    Case(
        "bad name",
        edit("id: office ", "id: my office "),
        r"teachers\[0\]\.id: the name the text `my office` may hold only",
    ),
    Case("no teachers", edit("teachers: ", "teachers: []\nx: "), r"teachers: must not be empty", n_errors=2),
    Case("empty path", edit("train: data/train.jsonl", "train: ''"), r"data\.train: must not be empty"),
    Case("one bound", edit(CONTEXT, "  bounds: [0.05] "), r"weighting\.bounds\[1\]: needs one value more"),
    Case(
        "order that is a word",
        edit(CONTEXT, "  order: score "),
        r"weighting\.order: .*scorecard.*; or it must be a list",
    ),
    # --set
    Case("set without value", nothing, r"--set: needs `key=value`", arguments=("--set", "train.seed")),
    Case(
        "set of a wrong value",
        nothing,
        r"--set train\.seed: must be a whole number",
        arguments=("--set", "train.seed=x"),
    ),
    Case(
        "set of an unknown key",
        nothing,
        r"--set train\.sed: .* — did you mean `seed`",
        arguments=("--set", "train.sed=1"),
    ),
    Case("set of no key", nothing, r"--set \.\.: is not a key", arguments=("--set", "..=1")),
    Case(
        "set beyond a list", nothing, r"there is no `teachers\[9\]` to change", arguments=("--set", "teachers[9].id=x")
    ),
    Case("set to bad YAML", nothing, r"--set train\.seed:1: not valid YAML", arguments=("--set", "train.seed=[")),
    Case(
        "no plug-in module",
        nothing,
        r"cannot import plug-in module `no_such_module`",
        arguments=("--plugin", "no_such_module"),
    ),
    Case(
        "module without plug-ins",
        nothing,
        r"module `json\.scanner` offers no plug-ins",
        arguments=("--plugin", "json.scanner"),
    ),
    Case(
        "module that fails",
        module("1 / 0\n", name="failing_plugin"),
        r"failing_plugin`: ZeroDivisionError",
        arguments=("--plugin", "failing_plugin"),
    ),
    Case(
        "module with odd plug-ins",
        module("MASHBILL_PLUGINS = {'rules': {}}\n", name="odd_plugin"),
        r"under 'rules' that is no plug-in",
        arguments=("--plugin", "odd_plugin"),
    ),
    Case("unknown option", nothing, r"No such option: --sett", arguments=("--sett", "a=b")),
    # Student and teachers
    Case(
        "two origins",
        edit("architecture:", "model: m\n  architecture:"),
        r"student: give exactly one of `model`, `config`, `architecture`",
    ),
    Case("no origin", edit(ORIGIN, "  #"), r"student: give exactly one of"),
    Case(
        "no labels", edit("  labels: [billing", "  # labels: [billing"), r"a classifier without `model` needs `labels`"
    ),
    Case(
        "label twice",
        edit("[billing, bug, hazard, praise]", "[billing, bug, hazard, praise, bug]"),
        r"student\.labels: the label `bug` stands there twice",
    ),
    Case(
        "one label",
        edit("[billing, bug, hazard, praise]", "[billing]"),
        r"needs at least two labels, got 1",
        n_errors=1,
    ),
    Case(
        "label file missing",
        edit("[billing, bug, hazard, praise]", "labels.txt"),
        r"student\.labels: cannot read the labels",
    ),
    Case(
        "unknown architecture",
        edit("hashed_ngram  ", "hashed_ngam  "),
        r"no students plug-in named `hashed_ngam` — did you mean `hashed_ngram`",
    ),
    Case(
        "unknown architecture option",
        edit("dim: 16", "dims: 16"),
        r"student\.options\.dims: `hashed_ngram` has no option `dims` — did you mean `dim`",
    ),
    Case(
        "model folder missing", edit(FIRST_TEACHER, "    model: nowhere\n"), r"teachers\[0\]\.model: no model folder at"
    ),
    Case(
        "no config.json",
        both(edit(FIRST_TEACHER, "    model: m\n"), model_folder(config=None)),
        r"teachers\[0\]\.model: no config\.json",
    ),
    Case(
        "broken config.json",
        both(edit(FIRST_TEACHER, "    model: m\n"), model_folder(config="{")),
        r"teachers\[0\]\.model: cannot read",
    ),
    Case(
        "weights as pickle",
        both(edit(FIRST_TEACHER, "    model: m\n"), model_folder(weights="pytorch_model.bin")),
        r"as a pickle",
    ),
    Case(
        "code in a model",
        both(edit(FIRST_TEACHER, "    model: m\n"), model_folder(config='{"auto_map": {"AutoModel": "x.Y"}}')),
        r"names code to run",
    ),
    Case(
        "wrong kind of model",
        both(edit(FIRST_TEACHER, "    model: m\n"), model_folder(config='{"architectures": ["LlamaForCausalLM"]}')),
        r"holds a LlamaForCausalLM, but the student is a classifier",
    ),
    Case(
        "label sets that do not meet",
        both(edit(FIRST_TEACHER, "    model: m\n"), model_folder(config='{"id2label": {"0": "cat", "1": "dog"}}')),
        r"teachers\[0\]: has no label in common with the student: it says cat, dog",
    ),
    Case(
        "label map to nowhere",
        edit("plugin: keywords", "plugin: keywords\n    labels: {bill: biling}"),
        r"teachers\[0\]\.labels\.bill: `biling` is none of the student's labels — did you mean `billing`",
    ),
    Case(
        "teacher with two origins",
        edit("plugin: keywords", "plugin: keywords\n    model: m"),
        r"teachers\[0\]: give only one of `model`",
    ),
    Case(
        "unknown teacher plug-in",
        edit("plugin: keywords", "plugin: keyword"),
        r"teachers\[0\]\.plugin: no teachers plug-in named `keyword` — did you mean `keywords`",
    ),
    Case(
        "unknown teacher option",
        edit("confidence: 0.99", "confidense: 0.99"),
        r"`keywords` has no option `confidense` — did you mean `confidence`",
    ),
    Case(
        "teacher twice",
        edit("id: workshop", "id: office"),
        r"teachers\[1\]\.id: the id `office` is already that of teachers\[0\]",
    ),
    Case(
        "peft on an architecture",
        edit("  labels: [b", "  peft: {r: 4}\n  labels: [b"),
        r"student\.peft: adapters need a transformers model",
    ),
    # Data
    Case(
        "data file missing",
        edit("train: data/train.jsonl", "train: data/trian.jsonl"),
        r"data\.train: .*trian\.jsonl: no such file\n.*in that folder: eval\.jsonl",
    ),
    Case(
        "unknown kind of data",
        both(edit("train: data/train.jsonl", "train: data/train.xml"), write("<a/>", file="data/train.xml")),
        r"cannot tell what kind of data `\.xml` is",
    ),
    Case(
        "column missing",
        edit("task_column: channel", "task_column: chanel"),
        r"recipe\.yaml:\d+: data\.task_column: .*has no column `chanel` — did you mean `channel`",
        n_errors=3,
    ),
    Case(
        "text column missing",
        edit("max_length: 200", "text_column: txt"),
        r"data\.text_column: .*no column `txt` — did you mean `text`",
        n_errors=3,
    ),
    Case(
        "label column missing in eval",
        edit("max_length: 200", "label_column: topic"),
        r"data\.label_column: .*no column `topic`; it has: id, text",
        n_errors=3,
    ),
    Case("empty data", write("", file=TRAIN), r"data\.train: .*train\.jsonl: the file holds no rows"),
    Case("malformed row", line(7, b'{"text": "a", }'), r"train\.jsonl:7: column \d+: not valid JSON"),
    Case("row that is a list", line(7, b"[1]"), r"train\.jsonl:7: a line must be one JSON object"),
    Case("NaN in JSON", line(7, b'{"text": NaN}'), r"train\.jsonl:7: not valid JSON: NaN is no number"),
    Case("row not UTF-8", line(1, b'{"text": "\xe9"}'), r"train\.jsonl:1: byte 10 \(0xe9\) is not UTF-8"),
    Case("empty text", row(3, text="  "), r"train\.jsonl:3: column `text` is empty"),
    Case("text that is a number", row(3, text=5), r"train\.jsonl:3: column `text` must be text, not a number \(`5`\)"),
    Case("text missing", row(3, text=None), r"train\.jsonl:3: column `text` must be text, not nothing"),
    Case(
        "half a surrogate",
        line(3, b'{"id": "x", "text": "\\ud800", "channel": "a", "site": "b"}'),
        r"train\.jsonl:3: .*surrogate",
    ),
    Case(
        "label that is a list",
        row(3, file=EVAL, label=["bug"]),
        r"eval\.jsonl:3: column `label` must be text, not a list",
    ),
    Case(
        "id twice",
        both(row(3, id="same"), row(9, id="same")),
        r"train\.jsonl:9: the id `same` is already that of .*train\.jsonl:3",
    ),
    Case("task missing in a row", row(3, channel=None), r"train\.jsonl:3: column `channel` is empty"),
    Case(
        "feature that is text",
        edit("max_length: 200", "feature_columns: [site]"),
        r"column `site` must be a number",
        n_errors=18,
    ),
    Case(
        "label unknown in eval",
        row(3, file=EVAL, label="bugg"),
        r"eval\.jsonl:3: the label `bugg` is none of the student's labels — did you mean `bug`",
    ),
    Case("label missing in eval", row(3, file=EVAL, label=None), r"eval\.jsonl:3: the row has no label"),
    Case("label missing in scorecard", row(3, file=SCORECARD, label=None), r"scorecard\.jsonl:3: the row has no label"),
    Case(
        "teacher unknown",
        both(edit("max_length: 200", "teacher_column: teacher_id"), row(3, teacher_id="ofice")),
        r"train\.jsonl:3: the teacher `ofice` is no teacher of this recipe — did you mean `office`",
    ),
    Case(
        "slash in a context",
        both(edit("context_columns: [site]", "context_columns: [site, channel]"), row(3, site="a/b")),
        r"train\.jsonl:3: column `site`: `a/b` holds `/`",
    ),
    Case(
        "format of another kind",
        edit("format: classification", "format: text"),
        r"data\.format: `text` does not fit a student of the kind classifier",
        n_errors=1,
    ),
    Case(
        "task not measured",
        edit('"channel": "mail"', '"channel": "fax"', file=TRAIN),
        r"data\.scorecard: no row has the task `fax`",
    ),
    Case(
        "critical label unknown",
        append("critical: {labels: [hazzard]}\n"),
        r"critical\.labels\[0\]: `hazzard` is none of .* — did you mean `hazard`",
    ),
    Case("nothing critical", append("critical: {confidence: 0.9}\n"), r"critical: no row is critical"),
    Case(
        "cross-entropy without labels",
        edit("pool: linear", "cross_entropy: 0.5\n  pool: linear"),
        r"distill\.cross_entropy: .*no row of train\.jsonl has one",
    ),
    # Weights
    Case(
        "too large lower bound",
        edit("[0.05, 0.9]", "[0.4, 0.9]"),
        r"weighting\.bounds: 3 teachers with at least 0\.4 each need 1\.2.*\n.*at most 0\.3333",
    ),
    Case("too small upper bound", edit("[0.05, 0.9]", "[0.05, 0.3]"), r"3 teachers with at most 0\.3 each reach 0\.9"),
    Case(
        "bounds upside down", edit("[0.05, 0.9]", "[0.9, 0.05]"), r"the lower bound 0\.9 is above the upper bound 0\.05"
    ),
    Case(
        "unknown rule",
        edit("rule: performance", "rule: performence"),
        r"weighting\.task\.rule: no rule named `performence` — did you mean `performance`",
    ),
    Case(
        "unknown rule option",
        edit("beta: 2.0", "bta: 2.0"),
        r"weighting\.token\.bta: `entropy_softmax` has no option `bta` — did you mean `beta`",
    ),
    Case(
        "static weight of an unknown teacher",
        edit(TASK_RULE, "task: {rule: static, weights: {ofice: 1.0}}"),
        r"weighting\.task\.weights\.ofice: there is no teacher `ofice` — did you mean `office`",
    ),
    Case(
        "static weight of an unknown task",
        edit(
            TASK_RULE, "task: {rule: static, by: task, weights: {fax: {office: 1.0, workshop: 0.0, safety_desk: 0.0}}}"
        ),
        r"weighting\.task\.weights\.fax: no row of data\.train has the task `fax`",
    ),
    Case(
        "scorecard missing",
        NO_SCORECARD,
        r"weighting\.task: the rule `performance` needs measured scores, and data\.scorecard is missing",
    ),
    Case(
        "scorecard missing for ranks",
        both(NO_SCORECARD, edit(TASK_RULE, "context: {rule: ranked_safety}")),
        r"`ranked_safety` needs measured scores",
    ),
    Case(
        "scorecard missing for an order",
        both(NO_SCORECARD, edit(TASK_RULE, "order: scorecard")),
        r"`order: scorecard` needs measured scores",
    ),
    Case("route without a column", edit(TASK_RULE, "task: {rule: route}"), r"set data\.teacher_column"),
    Case(
        "anchors without features",
        edit(TASK_RULE, "context: {rule: partition_of_unity, anchors: {home: [1], factory: [2]}}"),
        r"data\.feature_columns is empty",
    ),
    Case(
        "order in a circle",
        edit(CONTEXT, "  order: [[office, workshop], [workshop, safety_desk], [safety_desk, office]] "),
        r"weighting\.order: .*run in a circle: (\w+) > \w+ > \w+ > \1",
    ),
    Case(
        "order of an unknown teacher",
        edit(CONTEXT, "  order: [[offce, workshop]] "),
        r"weighting\.order\[0\]\[0\]: there is no teacher `offce` — did you mean `office`",
    ),
    Case(
        "sampling of an unknown task",
        append("sampling: {task: {mial: 0.5}}\n"),
        r"sampling\.task\.mial: no row of data\.train has the task `mial` — did you mean `mail`",
    ),
    Case(
        "sampling more than all",
        append("sampling: {context: {home: 0.9, factory: 0.9}}\n"),
        r"sampling\.context: the shares of contexts add up to 1\.8",
    ),
    # Training and output
    Case(
        "eval steps without eval",
        both(edit("  eval: {held_out: data/eval.jsonl}", "  #"), edit("seed: 0", "eval_steps: 5")),
        r"train\.eval_steps: there is nothing to evaluate on",
    ),
    Case(
        "patience without eval steps",
        edit("seed: 0", "early_stopping_patience: 2"),
        r"train\.early_stopping_patience: stopping early needs evaluations",
    ),
    Case("same seed twice", append("compare: {seeds: [1, 1]}\n"), r"compare\.seeds: a seed stands there twice"),
    Case(
        "wrong arm",
        append("compare: {arms: {a: {train.sede: 1}}}\n"),
        r"recipe\.yaml:\d+: compare\.arms\.a: train\.sede: unknown key `sede` — did you mean `seed`",
    ),
    Case(
        "arm with an unknown rule",
        append("compare: {arms: {a: {weighting.token: {rule: uniforn}}}}\n"),
        r"compare\.arms\.a: weighting\.token\.rule: no rule named `uniforn`",
    ),
    Case(
        "output is a file",
        both(edit("output: runs/first", "output: taken"), write("", file="taken")),
        r"output: `.*taken` is a file",
    ),
    Case(
        "output below a file",
        both(edit("output: runs/first", "output: taken/run"), write("", file="taken")),
        r"output: `.*taken` is a file",
    ),
    Case(
        "unknown tracker",
        append("report_to: [tensorbord]\n"),
        r"report_to\[0\]: `tensorbord` is no tracker .* — did you mean `tensorboard`",
    ),
    Case("tracker not installed", append("report_to: [clearml]\n"), r"the package `clearml` is not installed"),
]


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_each_mistake_gives_one_clear_error_and_leaves_nothing_behind(case, folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    case.change(folder)
    before = listing(folder)
    outcome = command("validate", case.recipe, *case.arguments)
    assert outcome.code == 2, outcome
    assert re.search(case.expected, outcome.err), outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "internal error" not in outcome.err
    n_errors = len(re.findall(r"^error: ", outcome.err, re.M)) + sum(
        map(int, re.findall(r"and (\d+) more$", outcome.err))
    )
    assert n_errors == case.n_errors, outcome.err
    assert listing(folder) == before


def test_the_recipe_that_the_mistakes_are_made_in_is_right(folder, command):
    outcome = command("validate", folder / RECIPE)
    assert (outcome.code, outcome.err) == (0, "")


def test_all_problems_of_a_recipe_are_listed_at_once_in_the_order_of_its_lines(folder, command):
    both(edit("seed: 0", "seed: x"), edit("plugin: keywords", "plugn: keywords"), edit("5.0e-3", "0"))(folder)
    lines = [line for line in command("validate", folder / RECIPE).err.splitlines() if line.startswith("error")]
    numbers = [int(re.findall(r"recipe\.yaml:(\d+)", line)[0]) for line in lines]
    assert len(numbers) == 3
    assert numbers == sorted(numbers)


def test_a_secret_is_never_repeated(folder, command):
    edit("id: office ", "id: hf_abcdefghijklmnopqrst ")(folder)
    outcome = command("validate", folder / RECIPE)
    assert "hf_abc" not in outcome.err
    outcome = command("validate", folder / RECIPE, "--set", "student.options.api_key=sk-very-secret-very-secret")
    assert "very-secret" not in outcome.err
    assert "secrets do not belong" in outcome.err


def test_errors_are_one_json_object_where_json_is_asked_for(folder, command):
    edit("seed: 0", "seed: x")(folder)
    outcome = command("validate", folder / RECIPE, "--json")
    error = json.loads(outcome.out)["error"]
    assert (outcome.code, outcome.err) == (2, "")
    assert error["exit_code"] == 2
    assert error["problems"][0]["where"].endswith("train.seed")
    assert error["message"].startswith("error: ")
