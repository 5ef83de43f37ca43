"""From matplotlib to an inline SVG that follows the page's colours.

Figures are painted in stand-in colours that no scheme uses; here they become CSS variables, so that one picture serves
the light, the dark and the printed page. Text stays text in the page's own font, identifiers are unique to the figure,
and nothing in the output depends on time or chance.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mashbill.report import palette

INK, MUTED, RULE, PAPER, WASH = "#010a01", "#010a02", "#010a03", "#010a04", "#010a05"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)", WASH: "var(--wash)"}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mashbill",
    "text.parse_math": False,  # a `$` in a task's name is a dollar sign
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout is the same on every machine
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "path.simplify": True,
}


class Box(NamedTuple):
    """Width and height of a picture and its margins, in CSS pixels."""

    width: int
    height: int
    left: int = 44
    top: int = 12
    right: int = 14
    bottom: int = 34


def teacher_colour(index: int) -> str:
    """Return the stand-in for the colour of the teacher at ``index``."""
    return f"#010b{index % palette.N_COLOURS:02x}"


def picture(paint: Callable[[Axes], None], *, box: Box, identity: str, label: str, kind: str = "") -> Markup:
    """Paint one figure and return it as ``<svg>``, safe to put into the page.

    Args:
        paint: Draws on the axes it is given, with stand-in colours.
        box: Size and margins.
        identity: Prefix of all identifiers inside; unique in the page.
        label: What the figure shows, for those who do not see it.
        kind: Further CSS classes.
    """
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # Text is set by the browser, which has more glyphs than the font that measures here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(box.width / 72, box.height / 72), dpi=72)
        FigureCanvasSVG(figure)
        width = (box.width - box.left - box.right) / box.width
        height = (box.height - box.top - box.bottom) / box.height
        paint(figure.add_axes((box.left / box.width, box.bottom / box.height, width, height)))
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), identity=identity, label=label, kind=kind)


def plain(text: str, limit: int = 24) -> str:
    r"""Return ``text`` fit for a figure: one line, no control characters, at most ``limit`` characters.

    >>> plain("a line\nand another one that is long", 12)
    'a line and …'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Return ``positions`` moved apart to at least ``gap``, in their order, inside ``[low, high]`` if there is room."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [0.0] * len(positions)
    floor = low
    for index in order:
        placed[index] = max(positions[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _inline(svg: bytes, *, identity: str, label: str, kind: str) -> Markup:
    root = ElementTree.fromstring(svg)
    view = root.get("viewBox", "")
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (_SVG + "style", _SVG + "metadata"):
                parent.remove(child)
    names = _referenced(root, identity)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text, element.tail = (element.text if element.tag == "text" else None), None
        attributes = [(key, _attribute(key, value, names)) for key, value in element.attrib.items()]
        element.attrib.clear()
        element.attrib.update({key.replace(_HREF, "href"): value for key, value in attributes if value})
    _flatten(root)
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "class": f"chart {kind}".strip(), "role": "img", "aria-label": label})
    # Safe: the writer escapes text and attributes, and every element in it is matplotlib's.
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _referenced(root: ElementTree.Element, identity: str) -> dict[str, str]:
    """Return a short new name for every identifier that something in the picture refers to."""
    text = " ".join(value for element in root.iter() for value in element.attrib.values())
    used: list[str] = list(dict.fromkeys(re.findall(r"(?:^| |\()#([\w.-]+)", text)))
    defined = {element.get("id", "") for element in root.iter()}
    return {name: f"{identity}-{n}" for n, name in enumerate(name for name in used if name in defined)}


def _attribute(key: str, value: str, names: dict[str, str]) -> str:
    """Return the value in the page's terms; empty if the attribute is of no use there."""
    if key == "id":
        return names.get(value, "")
    if key == _HREF:
        return "#" + names[value.removeprefix("#")]
    if key == "clip-path":
        return re.sub(r"#([\w.-]+)", lambda found: "#" + names[found[1]], value)
    if key == "transform":
        value = re.sub(r"rotate\(-0 .*?\)", "", value)
    if key == "style":
        return _style(value)
    return re.sub(r"-?\d+\.\d+", _short, value).replace("\n", "")


def _short(found: re.Match[str]) -> str:
    """Return a coordinate with a tenth of a pixel, or a hundredth where it is part of a marker."""
    value = float(found[0])
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def _style(value: str) -> str:
    kept = [part.strip() for part in value.split(";") if not part.strip().startswith("font-family")]
    text = ";".join(part.replace(": ", ":") for part in kept)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(r"#010b([0-9a-f]{2})", lambda found: f"var(--t{int(found[1], 16)})", text)


def _flatten(element: ElementTree.Element) -> None:
    """Replace groups that carry no attribute by what they hold."""
    for child in element:
        _flatten(child)
    children = []
    for child in list(element):
        children += list(child) if child.tag == "g" and not child.attrib else [child]
        element.remove(child)
    element.extend(children)
