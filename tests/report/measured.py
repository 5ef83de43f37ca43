"""What a synthetic run measured: results on every set, and arms with seeds."""

import math


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


class Measured:
    """The measuring half of a synthetic run; the other half has the teachers, tasks, contexts and sets."""

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
        entries = self.entries()
        overall = {(e["set"], e["who"]): e for e in entries if e["by"] == "all"}
        paired = [
            {"set": name, "first": "student", "second": who}
            | {
                key: self.difference(overall[name, "student"][key], overall[name, who][key])
                for key in ("accuracy", "loss")
            }
            for name, who in overall
            if who != "student"
        ]
        return {"kind": self.kind, "primary": primary, "confidence": 0.95, "entries": entries, "paired": paired}

    def difference(self, first, second):
        value = first["value"] - second["value"]
        half = 0.8 * (first["high"] - first["value"])
        return {"value": value, "low": value - half, "high": value + half}

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
        against = [
            {"arm": arm, "set": name, "by": "all", "name": "all"}
            | {key: self.gap(arms, arm, name, key) for key in ("accuracy", "loss")}
            for arm in arms
            for name in self.sets
            if arm != "main"
        ]
        return {"seeds": [0, 1, 2], "primary": primary, "arms": arms, "against_main": against}

    def gap(self, arms, arm, name, key):
        def of(which, seed):
            runs = arms[which][str(seed)]["entries"]
            return next(e[key]["value"] for e in runs if (e["set"], e["by"]) == (name, "all"))

        values = [of("main", seed) - of(arm, seed) for seed in (0, 1, 2)]
        mean = sum(values) / 3
        difference = {"value": mean, "low": mean - 0.007, "high": mean + 0.007}
        signs = [1 if value > 0 else -1 for value in values]
        return {"difference": difference, "signs": signs, "is_clear": abs(mean) > 0.007 and len(set(signs)) == 1}
