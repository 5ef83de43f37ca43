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
    for section in dict.fromkeys(job.section for job in JOBS):
        there = [records[job.name] for job in JOBS if job.section == section and job.name in records]
        if section == "adaptive":
            there = [[one for record in there for one in record]] if there else []
        found[section] = "\n\n".join(of_run(record) for record in there) or NOTHING
    return found


def of_run(record: Any) -> str:
    """Return what one run shows, by what it measured."""
    shown = {"growth": growth, "adaptive": adaptive, "step": step}
    return shown.get(_first(record)["mode"], of_table)(record)


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
    loops = sorted({one["loops"] for one in found})
    lines = [f"{'; '.join(devices)}; {' to '.join(dict.fromkeys([days[0], days[-1]]))}; {', '.join(versions)}."]
    lines.append(f"Loops of the loss on a processor: {'; '.join(loops)}.")
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


def growth(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the exponents."""
    rows = [["form", "axis", "sizes", "exponent", "exponent in work"]]
    for record in records:
        for axis, fit in record["axes"].items():
            sizes = f"{fit['sizes'][0]} to {fit['sizes'][-1]}"
            rows.append([record["shape"]["form"], axis, sizes, f"{fit['exponent']:.3f}", tables.in_work(fit)])
    return markdown(rows) + GROWTH_PLOT


def adaptive(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what weights from entropies cost."""
    rows = [["", "fixed, s", "quartiles", "from entropies, s", "quartiles", "above, round by round", "quartiles"]]
    for one in records:
        fixed, entropies = one["fixed_s"], one["adaptive_s"]
        cells = [cell for each in (fixed, entropies) for cell in (f"{each[1]:.4f}", f"{each[0]:.4f}-{each[2]:.4f}")]
        low, middle, high = one["above_percent"]
        rows.append([tables.title(one), *cells, f"{middle:+.1f} %", f"{low:+.1f} to {high:+.1f} %"])
    return markdown(rows)


def step(record: Mapping[str, Any]) -> str:
    """Return the steps at each size."""
    rows = [["K", "V", "step", "turns", "s", "parts alone, s", "x parts", "loss %", "loss alone, s"]]
    for one in record["sizes"]:
        alone = one["seconds"].get("loss, logits")
        for line in one["steps"]:
            size = [str(one["sizes"]["teachers"]), str(one["sizes"]["entries"])]
            seconds = [f"{line['step_s']:.3f}", f"{line['parts_s']:.3f}"]
            rows.append([*size, line["name"], str(line["turns"]), *seconds])
            rows[-1] += [f"{line['over_parts']:.2f}", f"{100 * line['share']:.0f}"]
            rows[-1].append(f"{alone[1]:.3f}" if alone and line["name"] == "mashbill, logits" else "")
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
