"""What docs/endpoints.md says of servers is what was recorded."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from servers.faulty import KINDS

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parents[1] / "docs" / "endpoints.md").read_text(encoding="utf-8")


def record(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def shown(value: float) -> str:
    """Return two digits as the page writes them."""
    return f"{value:.2g}" if value >= 0.01 else f"{value:.1e}".replace("e-0", "e-")


def cells(beginning: str) -> list[str]:
    """Return the cells of the one row of a table that begins so."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {beginning}")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize(
    ("row", "server", "name"),
    [
        ("vLLM 0.32, float32 | `vllm`", "vllm", "vllm, 1000"),
        ("vLLM 0.32, float32, 20 entries | `completions`", "vllm", "completions, 20"),
        ("vLLM 0.32, float32, 20 entries | `steps`", "vllm", "steps, 20"),
        ("llama.cpp (xllamacpp", "llamacpp", "steps, 1000"),
        ("llama.cpp, the 4-bit file", "llamacpp", "4 bits, steps, 20"),
    ],
)
def test_a_server_is_as_near_as_the_page_says(row: str, server: str, name: str) -> None:
    found = record(server)[name]
    assert cells(row)[2:] == [shown(found[key]) for key in ("most nats", "mean nats", "most tail mass")]
    assert f"{found['positions']} positions" in PAGE


def test_the_storm_was_as_the_page_says() -> None:
    found = record("storm")
    numbers = [found[key] for key in ("rows", "stored", "dead_letters", "lost", "twice", "further_attempts", "budget")]
    assert found["true"] == found["stored"]
    assert found["leaks"] == []
    assert cells("5,000")[:-1] == [f"{number:,}" for number in numbers]
    assert cells("5,000")[-1] == "nowhere"
    [n_kinds] = re.findall(r"three attempts in ten, in (\d+) ways", PAGE)
    assert int(n_kinds) == found["kinds"] == found["kinds_there_are"] == len(KINDS)
