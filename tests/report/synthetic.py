"""Run directories that look like real ones, from a seed: a classifier run and a causal LM run.

The numbers are made up; their shape, their files and their relations (better teachers get more weight, pools are better
calibrated than teachers) are those of a run.
"""

import json
import math
import random
from pathlib import Path

from report.measured import Measured, around, interval, softmax
from report.sample_texts import ROWS, SENTENCE

TASKS = ("chat", "news", "ui", "web")
CONTEXTS = tuple(
    f"{script}/{length}" for script in ("latin", "cyrillic", "arabic", "han") for length in ("short", "long")
)
CLASSIFIER_TEACHERS = ("glotlid", "cld3", "lingua", "fasttext-176", "langid")
LM_TEACHERS = ("medicine", "law", "code")


class Maker(Measured):
    """One synthetic run: a seeded source of chance and the facts that all its files share."""

    def __init__(self, kind, *, seed=0, teachers=None, contexts=None, resumed=True, small=False):
        self.kind = kind
        self.random = random.Random(seed)
        self.teachers = tuple(teachers or (CLASSIFIER_TEACHERS if kind == "classifier" else LM_TEACHERS))
        self.tasks = TASKS if kind == "classifier" else ("medicine", "law", "code")
        self.contexts = CONTEXTS if kind == "classifier" else ("all",)
        self.sets = ("django", "wikipedia", "tatoeba") if kind == "classifier" else ("held-out", "mixed")
        if small:
            self.tasks, self.contexts, self.sets = self.tasks[:2], self.contexts[:2], self.sets[:2]
        self.contexts = tuple(contexts or self.contexts)
        self.n_records = 60 if small else 120
        self.resumed = resumed
        self.skill = {
            (teacher, name): 0.7 + 0.27 * self.random.random()
            for teacher in self.teachers
            for name in self.tasks + self.contexts
        }

    def shares(self, name, progress):
        scores = [self.skill[teacher, name] * progress * 12 + self.random.gauss(0, 0.12) for teacher in self.teachers]
        return dict(zip(self.teachers, softmax(scores), strict=True))

    def records(self):
        n = self.n_records
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
                for number, task in enumerate(self.tasks):
                    read, targets = SENTENCE[:-1], SENTENCE[1:]
                    wrong = [" the" for _ in targets]
                    row = f"{name}-{number:04d}"
                    out.append(self.example(name, row, read, targets, task, "all", wrong))
        return out

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
            "tests": [self._pair_test(c, pair, orders.get(c, [])) for c in self.contexts for pair in self._pairs()],
        }

    def _pairs(self):
        return [[a, b] for n, a in enumerate(self.teachers) for b in self.teachers[n + 1 :]]

    def _pair_test(self, context, pair, certified):
        decided = pair in certified
        return {
            "context": context,
            "safer": pair[0],
            "less_safe": pair[1],
            "decision": "certified" if decided else "undecided",
            "test": "sign",
            "n": 1200,
            "wins": 31 if decided else 9,
            "losses": 5 if decided else 7,
            "gap": (26 if decided else 2) / 1200,
            "p_value": 6.5e-06 if decided else 0.40181,
            "level": 0.00104,
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
