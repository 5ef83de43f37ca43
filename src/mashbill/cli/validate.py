"""``mashbill validate``: everything that can be known about a run before it starts."""

from mashbill.cli.recipes import PluginOption, RecipeArgument, SetOption, open_recipe
from mashbill.cli.reply import Reply
from mashbill.train.checks import Survey, check

SHOWN = 8


def validate(recipe: RecipeArgument, plugin: PluginOption = None, set_: SetOption = None) -> Reply:
    """Check a recipe, its data and its models, and say what it would do. Writes nothing."""
    survey = check(open_recipe(recipe, plugin, set_))
    return Reply([f"{recipe}: ok", *describe(survey)], {"ok": True, "recipe": recipe, **survey.facts()})


def describe(survey: Survey) -> list[str]:
    """Return a survey as lines of text."""
    labels = f", {survey.n_labels} labels" if survey.n_labels else ""
    read = "" if survey.is_complete else " (the first ones; files are longer)"
    rows = ", ".join(f"{key.removeprefix('data.').removeprefix('eval.')} {n:,}" for key, n in survey.rows.items())
    cells = f"{_counted(survey.tasks, 'task')} × {_counted(survey.contexts, 'context')}"
    return [
        f"  student   {survey.student}{labels}",
        f"  teachers  {len(survey.teachers)}: {_listed(survey.teachers)}",
        f"  rows      {rows}{read}",
        f"  cells     {cells}",
        f"  steps     about {survey.n_steps:,}",
        f"  disk      about {_size(survey.answer_bytes)} for the teachers' answers",
        *(f"warning: {warning}" for warning in survey.warnings),
    ]


def _counted(names: tuple[str, ...], word: str) -> str:
    if len(names) == 1:
        return f"1 {word}"
    return f"{len(names)} {word}s ({_listed(names)})"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{max(n_bytes / 1e6, 0.1):.1f} MB"
