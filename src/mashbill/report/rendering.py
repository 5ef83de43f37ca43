"""What every page shares: the templates, the engine that escapes what it fills in, and the sheet of styles."""

from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined

from mashbill.report import palette

_FOLDER = Path(__file__).parent / "templates"
# Read with the code that fills them: a run that lasts over an upgrade must not meet templates of another version.
TEMPLATES = {
    path.relative_to(_FOLDER).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(_FOLDER.rglob("*"))
    if path.is_file()
}


def environment() -> Environment:
    """Return the template engine; everything that it fills in is escaped."""
    return Environment(
        loader=DictLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style(*sheets: str) -> str:
    """Return the colours of both schemes, then the sheets, by name."""
    light, dark = palette.css_variables(palette.LIGHT), palette.css_variables(palette.DARK)
    classes = (f".t{index}{{--c:var(--t{index})}}" for index in range(palette.N_COLOURS))
    return "\n".join(
        (
            f":root{{color-scheme:light;{light}}}",
            f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}",
            *classes,
            *(TEMPLATES[sheet] for sheet in sheets),
        )
    )
