"""From samples to records, and from records to text."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.check import Verdict
from harness.clock import quartiles
from harness.variants import Variant

LEGEND = """\
turns: those that were timed. x ours, x in place: median over that of the first line. bytes, exp, products %: what these
alone would take at the rates measured in this run, over the median. MiB: peak above inputs. error: of the gradient,
relative, against float64."""


def lines(
    checked: Mapping[Variant, Verdict],
    samples: Mapping[str, Sequence[tuple[float, float]]],
    peaks: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """Return one record a variant, timed or not."""
    found = []
    for variant, verdict in checked.items():
        line: dict[str, Any] = {"name": variant.name, "kind": variant.kind}
        line |= {"status": verdict.status, "note": verdict.note, "gradient_error": verdict.gradient_error}
        if variant.name in samples:
            walls, processors = zip(*samples[variant.name], strict=True)
            line |= {"turns": len(walls), "wall_s": quartiles(walls), "cpu_s": quartiles(processors)[1]}
            line |= {"peak_mib": peaks[variant.name]}
        found.append(line)
    return found


def baseline(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the line that others are compared with: our first that was timed."""
    return next((line for line in record["variants"] if line["kind"] == "ours" and "wall_s" in line), None)


def title(record: Mapping[str, Any]) -> str:
    """Say in one line what was measured."""
    shape, about = record["shape"], record["about"]
    parts = [
        record["shape"]["form"],
        f"N={shape['rows']} V={shape['entries']} K={shape['teachers']}",
        shape["dtype"],
        record.get("divergence", "forward_kl"),
        f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}",
    ]
    if shape["form"] in ("topk", "stored"):
        parts.insert(2, f"k={shape['k']}")
    if record.get("impl", "auto") != "auto":
        parts.append(f"impl={record['impl']}")
    if record.get("competitor"):
        parts.append("beside a busy process")
    return ", ".join(parts)


def cells(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table record."""
    base, least = baseline(record), record["least_seconds"]
    shares = [name for name in least if least[name] > 0]
    # In place is not what the others do, so what they are compared with has its name.
    against = "x in place" if base is not None and "in place" in base["name"] else "x ours"
    header = ["", "s", "quartiles", "turns", "cpu s", against, *[f"{name} %" for name in shares], "MiB", "error"]
    rows = []
    for line in record["variants"]:
        if "wall_s" not in line:
            continue
        low, middle, high = line["wall_s"]
        ratio = "" if base is None else f"{middle / base['wall_s'][1]:.2f}"
        rows.append(
            [
                line["name"],
                _number(middle),
                f"{_number(low)}-{_number(high)}",
                str(line["turns"]),
                _number(line["cpu_s"]),
                ratio,
                # A floor does one part of the work, and has a share in its own limit alone.
                *[
                    f"{100 * least[name] / middle:.0f}" if line["kind"] != "floor" or name == "products" else ""
                    for name in shares
                ],
                "" if line["peak_mib"] is None else f"{line['peak_mib']:.0f}",
                "" if line["gradient_error"] is None else f"{line['gradient_error']:.0e}",
            ]
        )
    return header, rows


def left_out(record: Mapping[str, Any]) -> list[str]:
    """Return who was not timed, and why."""
    return [f"{line['name']}: {line['note']}" for line in record["variants"] if "wall_s" not in line]


def compared(record: Mapping[str, Any]) -> list[str]:
    """Return of whom only the gradient was found equal, and the value up to a constant."""
    return [line["name"] for line in record["variants"] if line["status"] == "same" and "spread" in line["note"]]


def as_text(record: Mapping[str, Any]) -> str:
    """Return a record as text for a terminal."""
    if record["mode"] == "growth":
        return growth_text(record)
    if record["mode"] == "adaptive":
        return adaptive_text(record)
    header, rows = cells(record)
    gradient = (
        record["shape"]["rows"] * record["shape"]["entries"] * (4 if record["shape"]["dtype"] == "float32" else 2)
    )
    rates = record["limits"]
    text = [f"== {title(record)}", aligned([header, *rows])]
    text.append(
        f"limits: copy {rates['copy'] / 1e9:.1f} GB/s, exp {rates['exp'] / 1e9:.2f} G/s, "
        f"products {rates['product'] / 1e9:.0f} GFLOP/s; a gradient by logits is {gradient / 2**20:.0f} MiB"
    )
    if compared(record):
        text.append(f"same gradient, and value up to the teachers' own spread: {'; '.join(compared(record))}")
    text += [f"not timed: {line}" for line in left_out(record)]
    return "\n".join([*text, ""])


def growth_text(record: Mapping[str, Any]) -> str:
    """Return the exponents, and the times that they were fitted to."""
    text = [f"== growth: {title(record)}"]
    rows = [["axis", "exponent", "in work", "seconds at each size"]]
    for axis, fit in record["axes"].items():
        times = ", ".join(
            f"{size}: {_number(second)}" for size, second in zip(fit["sizes"], fit["seconds"], strict=True)
        )
        rows.append([axis, f"{fit['exponent']:.3f}", in_work(fit), times])
    return "\n".join([*text, aligned(rows), ""])


def in_work(fit: Mapping[str, Any]) -> str:
    """Return the exponent over the work, if there is one."""
    return "" if fit["exponent_in_work"] is None else f"{fit['exponent_in_work']:.3f}"


def adaptive_text(record: Mapping[str, Any]) -> str:
    """Return what adaptive weights cost."""
    return (
        f"== adaptive weights: {title(record)}\n"
        f"fixed {_number(record['fixed_s'][1])} s, from entropies {_number(record['adaptive_s'][1])} s: "
        f"{record['above_percent'][1]:+.1f} % in the median round, quartiles {record['above_percent'][0]:+.1f} and "
        f"{record['above_percent'][2]:+.1f} %\n"
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Pad cells to columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def status(records: Sequence[Mapping[str, Any]]) -> int:
    """Return 1 if the library itself failed a check."""
    bad = [
        line["name"]
        for record in records
        for line in record.get("variants", [])
        if line["kind"] == "ours" and line["status"] in ("other", "failed")
    ]
    return int(bool(bad))


def _number(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 0.1 else f"{seconds:.3f}"
