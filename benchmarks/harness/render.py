"""From records to the blocks and plots of the page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import tables
from harness.claims import CLAIMS
from harness.plan import JOBS

NOTHING = "*Not measured yet.*"
COMPARED = ("logits-32k-float32", "hidden-32k-float32", "topk-32k-float32")
COMPARED_PLOT = "\n\n![Seconds and memory of every variant, in three forms](images/performance-compared.svg)"
GROWTH_PLOT = "\n\n![Seconds over positions, entries and teachers](images/performance-growth.svg)"


def blocks(records: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each block of the page."""
    found = {"machine": machine(records), "claims": claims(records)}
    for section in ("logits", "hidden", "topk", "busy", "gpu"):
        there = [job.name for job in JOBS if job.section == section and job.name in records]
        parts = [of_table(record) if isinstance(record := records[name], dict) else adaptive(record) for name in there]
        found[section] = "\n\n".join(parts) or NOTHING
    found["growth"] = growth(records.get("growth"))
    found["adaptive"] = adaptive(records.get("adaptive"))
    found["step"] = step(records.get("step"))
    return found


def replaced(text: str, name: str, block: str) -> str:
    """Put a block between its two marks.

    Raises:
        ValueError: The page has no such marks.
    """
    start, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the page must hold {start} and {end} once")
    return pattern.sub(lambda _: f"{start}\n\n{block}\n\n{end}", text)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its first row is the head, and all but the first column is aligned to the right."""
    head, *body = rows
    lines = [head, ["---", *["---:" for _ in head[1:]]], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(records: Mapping[str, Any]) -> str:
    """Say on what, when and with which versions."""
    found = [about for record in records.values() for about in [_first(record)["about"]]]
    if not found:
        return NOTHING
    days = sorted({one["date"] for one in found})
    devices = sorted({f"{one['device']}, {one['cores']} cores, {one['memory_gib']} GiB" for one in found})
    versions = sorted({f"{name} {version}" for one in found for name, version in one["versions"].items()})
    rates = [one["limits"] for one in records.values() if isinstance(one, dict) and "limits" in one]
    lines = [f"{'; '.join(devices)}; {' to '.join(dict.fromkeys([days[0], days[-1]]))}; {', '.join(versions)}."]
    if rates:
        best = {name: max(one[name] for one in rates) / 1e9 for name in rates[0]}
        lines.append(
            f"Best rates seen: copy {best['copy']:.1f} GB/s, {best['exp']:.1f} G exponentials/s, "
            f"products {best['product']:.0f} GFLOP/s."
        )
    return "\n".join(lines)


def claims(records: Mapping[str, Any]) -> str:
    """Return the claims with what was measured; the worst run counts."""
    rows = [["", "wanted", "measured", ""]]
    for claim in CLAIMS:
        number, holds = claim.worst(records), claim.holds(records)
        wanted = f"{'≤' if claim.below else '≥'} {claim.bound:g}{claim.unit}"
        measured = "" if number is None else f"{number:.2f}{claim.unit}"
        rows.append([claim.text, wanted, measured, {None: "not measured", True: "holds", False: "**missed**"}[holds]])
    drawn = COMPARED_PLOT if any(name in records for name in COMPARED) else ""
    return markdown(rows) + drawn


def verdicts(records: Mapping[str, Any]) -> str:
    """Return the claims for a terminal."""
    lines = []
    for claim in CLAIMS:
        number, holds = claim.worst(records), claim.holds(records)
        state = {None: "-", True: "holds", False: "MISSED"}[holds]
        measured = "" if number is None else f"{number:.2f}{claim.unit}"
        lines.append([state, claim.text, f"{'<=' if claim.below else '>='} {claim.bound:g}{claim.unit}", measured])
    return tables.aligned(lines)


def of_table(record: Mapping[str, Any]) -> str:
    """Return one run's title, table, and who was left out."""
    header, rows = tables.cells(record)
    text = [f"**{tables.title(record)}**", "", markdown([header, *rows])]
    same = tables.compared(record)
    if same:
        text += ["", f"Same gradient, and value up to the teachers' own spread: {'; '.join(same)}."]
    out = tables.left_out(record)
    if out:
        text += ["", f"Not timed: {'; '.join(out)}."]
    return "\n".join(text)


def growth(records: Sequence[Mapping[str, Any]] | None) -> str:
    """Return the exponents."""
    if not records:
        return NOTHING
    rows = [["form", "axis", "sizes", "exponent", "exponent in work"]]
    for record in records:
        for axis, fit in record["axes"].items():
            sizes = f"{fit['sizes'][0]} to {fit['sizes'][-1]}"
            rows.append([record["shape"]["form"], axis, sizes, f"{fit['exponent']:.3f}", tables.in_work(fit)])
    return markdown(rows) + GROWTH_PLOT


def adaptive(records: Sequence[Mapping[str, Any]] | None) -> str:
    """Return what weights from entropies cost."""
    if not records:
        return NOTHING
    rows = [["form", "fixed, s", "from entropies, s", "above"]]
    for one in records:
        fixed, entropies = one["fixed_s"][1], one["adaptive_s"][1]
        above = f"{100 * (entropies / fixed - 1):+.1f} %"
        rows.append([one["shape"]["form"], f"{fixed:.4f}", f"{entropies:.4f}", above])
    return markdown(rows)


def step(record: Mapping[str, Any] | None) -> str:
    """Return the steps at each size."""
    if not record:
        return NOTHING
    rows = [["K", "V", "step", "s", "parts alone, s", "x parts", "loss %"]]
    for one in record["sizes"]:
        for line in one["steps"]:
            size = [str(one["sizes"]["teachers"]), str(one["sizes"]["entries"])]
            seconds = [f"{line['step_s']:.3f}", f"{line['parts_s']:.3f}"]
            rows.append([*size, line["name"], *seconds, f"{line['over_parts']:.2f}", f"{100 * line['share']:.0f}"])
    text = markdown(rows)
    if record["left_out"]:
        text += "\n\nNot timed: " + "; ".join(f"{name}: {why}" for name, why in record["left_out"].items()) + "."
    return text


def plots(records: Mapping[str, Any], folder: Path) -> None:
    """Draw what was measured: times and memory beside the competitors', and growth."""
    # Where a plot is not wanted, its library need not be there.
    from harness import plots as drawn

    compared = [records[name] for name in COMPARED if name in records]
    if compared:
        drawn.bars(compared, folder / "performance-compared.svg")
    if "growth" in records:
        drawn.growth(records["growth"], folder / "performance-growth.svg")


def _first(record: Any) -> Mapping[str, Any]:
    return record[0] if isinstance(record, list) else record
