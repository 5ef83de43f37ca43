"""Run directories that look like real ones, from a seed: a classifier run and a causal LM run.

The numbers are made up; their shape, their files and their relations (better teachers get more weight, pools are better
calibrated than teachers) are those of a run.
"""

import json
import math
import random
from pathlib import Path

TASKS = ("chat", "news", "ui", "web")
CONTEXTS = tuple(
    f"{script}/{length}" for script in ("latin", "cyrillic", "arabic", "han") for length in ("short", "long")
)
CLASSIFIER_TEACHERS = ("glotlid", "cld3", "lingua", "fasttext-176", "langid")
LM_TEACHERS = ("medicine", "law", "code")
ROWS = (
    ("Opslaan als…", "nld", "afr", "ui", "latin/short"),
    (
        "Ta strona nie istnieje. Wróć do strony głównej albo skorzystaj z wyszukiwarki.",
        "pol",
        "ces",
        "web",
        "latin/long",
    ),
    ("Сачувај измене", "srp", "mkd", "ui", "cyrillic/short"),
    ("Правителството прие новия бюджет след дълъг дебат в парламента.", "bul", "mkd", "news", "cyrillic/long"),
    ("حفظ التغييرات", "arb", "fas", "ui", "arabic/short"),
    ("این صفحه در دسترس نیست؛ لطفاً بعداً دوباره تلاش کنید.", "fas", "arb", "web", "arabic/long"),
    ("請稍後再試", "zho", "jpn", "chat", "han/short"),
    ("ok takk, vi ses i morgen!", "nob", "dan", "chat", "latin/short"),
    ("Godkend alle ændringer, før du lukker vinduet, ellers går de tabt.", "dan", "nob", "ui", "latin/long"),
    ("今日はいい天気ですね。散歩に行きませんか。", "jpn", "zho", "chat", "han/long"),
)
SENTENCE = (
    "The | court| held| that| the| dosage| of| hepar|in| was| not| a| material| term| ,| so| `|return| claim|.|valid|`| is| False|."
    "| On| appeal| the| patient|'|s| expert| testified| that| intra|venous| ad|ministr|ation| requires| monitoring"
    "| of| the| part|ial| throm|bo|plastin| time|.|\n|def| liability|(|breach|,| harm|):|\n|    |return| breach| and| harm"
).split("|")


def softmax(scores, temperature=1.0):
    top = max(scores)
    parts = [math.exp((score - top) / temperature) for score in scores]
    return [part / sum(parts) for part in parts]


def interval(value, n):
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-4) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def around(value, n, spread=1.0):
    half = 1.96 * spread / math.sqrt(n)
    return {"value": value, "low": value - half, "high": value + half}


class Maker:
    """One synthetic run: a seeded source of chance and the facts that all its files share."""

    def __init__(self, kind, *, seed=0, teachers=None, resumed=True):
        self.kind = kind
        self.random = random.Random(seed)
        self.teachers = tuple(teachers or (CLASSIFIER_TEACHERS if kind == "classifier" else LM_TEACHERS))
        self.tasks = TASKS if kind == "classifier" else ("medicine", "law", "code")
        self.contexts = CONTEXTS if kind == "classifier" else ("all",)
        self.sets = ("django", "wikipedia", "tatoeba") if kind == "classifier" else ("held-out", "mixed")
        self.resumed = resumed
        self.skill = {
            (teacher, name): 0.7 + 0.27 * self.random.random()
            for teacher in self.teachers
            for name in self.tasks + self.contexts
        }

    def shares(self, name, progress):
        scores = [self.skill[teacher, name] * progress * 12 + self.random.gauss(0, 0.12) for teacher in self.teachers]
        return dict(zip(self.teachers, softmax(scores), strict=True))

    def records(self, n=120):
        lines = []
        for index in range(n):
            step, progress = 10 * (index + 1), min(1.0, (index + 1) / (0.5 * n))
            tasks = {task: self.shares(task, progress) for task in self.tasks}
            contexts = {context: self.shares(context, progress) for context in self.contexts}
            mean = {t: sum(tasks[task][t] for task in self.tasks) / len(self.tasks) for t in self.teachers}
            loss = 0.35 + 2.4 * math.exp(-index / 22) + self.random.gauss(0, 0.02)
            divergences = {
                t: loss * (0.6 + 0.25 * k) * (1 + self.random.gauss(0, 0.03)) for k, t in enumerate(self.teachers)
            }
            lines.append(
                {
                    "step": step,
                    "epoch": step / 400,
                    "n_tokens": 160 * step,
                    "loss": loss,
                    "divergence": loss,
                    "cross_entropy": None,
                    "learning_rate": 1e-3 * (1 - progress),
                    "grad_norm": 0.5,
                    "seconds": 0.3 * step,
                    "kl_to_teacher": divergences,
                    "disagreement": 0.3,
                    "weights": {"all": mean, "task": tasks, "context": contexts},
                }
            )
            if step % 200 == 0:
                lines += [
                    {
                        "step": step,
                        "evaluation": {"set": name, "loss": loss * (1.1 + 0.2 * k), "accuracy": 0.9 - 0.1 * k},
                    }
                    for k, name in enumerate(self.sets)
                ]
        if self.resumed:  # killed at step 530, taken up from the checkpoint at 500
            at = next(i for i, line in enumerate(lines) if line["step"] == 530)
            again = [line for line in lines if 500 < line["step"] <= 530]
            lines[at + 1 : at + 1] = again
        return lines

    def who(self):
        return ("student", "pool", *(f"teacher:{teacher}" for teacher in self.teachers))

    def measure(self, who, by, name, quality, n):
        accuracy = min(0.995, max(0.05, quality))
        loss = 2.2 * (1 - accuracy) + 0.08
        entry = {
            "who": who,
            "by": by,
            "name": name,
            "n": n,
            "loss": around(loss, n, 0.8),
            "accuracy": interval(accuracy, n),
            "perplexity": None,
            "calibration_error": 0.01 + 0.3 * (1 - accuracy) * (1.5 if "teacher" in who else 0.6),
            "safety": None,
            "n_critical": 0,
        }
        if self.kind == "causal_lm":
            loss = around(2.1 + 2 * (1 - accuracy), n, 0.9)
            entry |= {"loss": loss, "perplexity": {key: math.exp(value) for key, value in loss.items()}}
        if by == "all":
            entry["reliability"] = self.reliability(
                accuracy, n, 0.03 if who == "student" else 0.09 if "teacher" in who else 0.0
            )
            entry |= {"safety": interval(min(0.99, accuracy + 0.03), n // 8), "n_critical": n // 8}
        return entry

    def reliability(self, accuracy, n, over):
        bins, shares = [], softmax([6 * (i / 10) * accuracy for i in range(10)])
        for i, share in enumerate(shares):
            confidence, count = i / 10 + 0.05, round(share * n)
            right = min(
                1.0, max(0.0, confidence - over * 4 * confidence * (1 - confidence) + self.random.gauss(0, 0.02))
            )
            empty = count == 0
            bins.append(
                {
                    "low": i / 10,
                    "high": (i + 1) / 10,
                    "n": count,
                    "confidence": None if empty else confidence,
                    "accuracy": None if empty else right,
                }
            )
        return bins

    def entries(self, n=2400, gain=0.0):
        out = []
        for k, name in enumerate(self.sets):
            for who in self.who():
                if who == "student":
                    base = 0.93 - 0.035 * k + gain
                elif who == "pool":
                    base = 0.94 - 0.02 * k
                else:
                    base = (
                        0.87
                        + 0.015 * (self.teachers.index(who[8:]) % 3)
                        + (0.055 if k == 2 and who.endswith(self.teachers[0]) else 0)
                    )
                for by, names in (("all", ("all",)), ("task", self.tasks), ("context", self.contexts)):
                    for part in names:
                        quality = base + (0 if by == "all" else self.random.gauss(0, 0.02))
                        out.append(
                            {"set": name} | self.measure(who, by, part, quality, n if by == "all" else n // len(names))
                        )
        return out

    def result(self):
        primary = "accuracy" if self.kind == "classifier" else "perplexity"
        return {"kind": self.kind, "primary": primary, "confidence": 0.95, "entries": self.entries()}

    def example(self, name, row, tokens, labels, task, context, confusion):
        weights, dominant, disagreement, student, sure, said = [], [], [], [], [], []
        for position, label in enumerate(labels):
            share = dict(zip(self.teachers, softmax([self.random.gauss(0, 1.6) for _ in self.teachers]), strict=True))
            weights.append(share)
            dominant.append(max(share, key=lambda t: share[t]))
            disagreement.append(self.random.random() ** 2 * 1.2)
            other = confusion[position]
            student.append(label if self.random.random() < 0.8 else other)
            sure.append(0.5 + 0.5 * self.random.random())
            said.append(
                {
                    t: {
                        "top": label if self.random.random() < 0.7 else other,
                        "probability": 0.4 + 0.6 * self.random.random(),
                    }
                    for t in self.teachers
                }
            )
        return {
            "set": name,
            "row_id": row,
            "task": task,
            "context": context,
            "tokens": tokens,
            "labels": labels,
            "weights": weights,
            "dominant": dominant,
            "disagreement": disagreement,
            "student": student,
            "student_probability": sure,
            "teachers": said,
        }

    def examples(self):
        out = []
        for name in self.sets:
            if self.kind == "classifier":
                for number, (text, label, other, task, context) in enumerate(ROWS):
                    out.append(self.example(name, f"{name}-{number:04d}", [text], [label], task, context, [other]))
            else:
                for number in range(3):
                    wrong = [" the" for _ in SENTENCE]
                    out.append(
                        self.example(name, f"{name}-{number:04d}", SENTENCE, SENTENCE, self.tasks[number], "all", wrong)
                    )
        return out

    def comparison(self):
        primary = "accuracy" if self.kind == "classifier" else "perplexity"
        arms = {}
        for arm, gain in (("main", 0.0), ("uniform", -0.016), ("best_single", -0.03), ("route", -0.008)):
            arms[arm] = {}
            for seed in (0, 1, 2):
                chosen = [
                    e
                    for e in self.entries(gain=gain + self.random.gauss(0, 0.006))
                    if e["who"] == "student" and e["by"] != "context"
                ]
                arms[arm][str(seed)] = {"entries": chosen, "train_seconds": 61.0 + seed, "n_tokens": 192000}
        return {"seeds": [0, 1, 2], "primary": primary, "arms": arms}

    def scorecard(self):
        cells = []
        for teacher in self.teachers:
            for task, context in [(None, None), *((t, None) for t in self.tasks), *((None, c) for c in self.contexts)]:
                accuracy = self.skill[teacher, task or context] if task or context else 0.9
                cells.append(
                    {
                        "teacher": teacher,
                        "task": task,
                        "context": context,
                        "n": 800,
                        "loss": around(2 * (1 - accuracy), 800),
                        "accuracy": interval(accuracy, 800),
                        "calibration_error": 0.4 * (1 - accuracy),
                        "safety": interval(accuracy, 90) if context is None else None,
                        "n_critical": 90 if context is None else 0,
                    }
                )
        orders = {
            c: [[self.teachers[0], self.teachers[2]], [self.teachers[1], self.teachers[2]]] for c in self.contexts[:2]
        }
        return {
            "teachers": list(self.teachers),
            "tasks": list(self.tasks),
            "contexts": list(self.contexts),
            "confidence": 0.95,
            "cells": cells,
            "orders": orders | {c: [] for c in self.contexts[2:]},
        }

    def run(self):
        source = {"classifier": "plug-in", "causal_lm": "local model"}[self.kind]
        return {
            "mashbill": "0.1.0",
            "torch": "2.10.0",
            "transformers": "5.3.0",
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "device": "cpu",
            "seed": 0,
            "started": "2026-05-02T09:14:03+00:00",
            "finished": "2026-05-02T09:20:41+00:00",
            "resumes": int(self.resumed),
            "status": "finished",
            "recipe_sha256": "5e" * 32,
            "data": {
                "train": {"rows": 24000, "sha256": "a1" * 32},
                **{s: {"rows": 2400, "sha256": "b2" * 32} for s in self.sets},
            },
            "teachers": [
                {"id": t, "kind": source, "source": f"./models/{t}", "sha256": "c3" * 32} for t in self.teachers
            ],
            "student": {"kind": self.kind, "n_parameters": 1_180_000, "source": "hashed_ngram"},
            "tasks": list(self.tasks),
            "contexts": list(self.contexts),
            "step_seconds": 0.051,
            "train_seconds": 61.4,
            "teacher_seconds": 212.7,
            "peak_memory_mb": 834.2,
        }


RECIPE = """version: 1
student:
  kind: classifier
  architecture: hashed_ngram   # 1.2 M parameters
weighting:
  task: {rule: performance, temperature: 0.1}
  context: {rule: partition_of_unity}
output: ./runs/first
"""


def write_run(directory: Path, kind: str, **options) -> Path:
    """Write a whole run directory and return it."""
    maker = Maker(kind, **options)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.yaml").write_text(RECIPE)
    for name in ("run", "result", "examples", "comparison", "scorecard"):
        value = getattr(maker, name)()
        (directory / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False))
    lines = [json.dumps(line) for line in maker.records()]
    (directory / "records.jsonl").write_text("\n".join(lines) + "\n")
    return directory
