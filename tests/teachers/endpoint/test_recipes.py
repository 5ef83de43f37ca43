"""Recipes with an endpoint: what is said of bad ones before anything is written, and what a good one does."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import pretend
from servers.pretend import Habits, Handler, Server
from servers.pretend_tokenizers import make_tokenizer

from mashbill.cli.app import main as mashbill
from mashbill.train import endpoint_teachers

TEXTS = ["The capital of France is Paris.", "one, two, three", "and the capital of Italy is Rome.", "four, five"]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe whose one teacher is an endpoint; dotted keys change it, None takes them out."""
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
        for n, text in enumerate(TEXTS):
            file.write(json.dumps({"id": f"r{n}", "text": text, "prompt": "five", "completion": text}) + "\n")

    def make(url: str, **changes: Any) -> Path:
        config = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        endpoint = {"url": url, "model": "pretend", "top_logprobs": 8, "retries": 0, "timeout": 5.0}
        recipe: dict[str, Any] = {
            "version": 1,
            "student": {"kind": "causal_lm", "config": {**config, "intermediate_size": 16}, "tokenizer": "tokenizer"},
            "teachers": [{"id": "far", "endpoint": endpoint, "store": "store"}],
            "data": {"format": "text", "train": "rows.jsonl", "eval": {"held_out": "rows.jsonl"}, "max_length": 32},
            "train": {"max_steps": 2, "per_device_train_batch_size": 2},
            "output": "run",
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            here: Any = recipe
            for name in parents:
                here = here[0] if isinstance(here, list) else here
                here = here[name]
            here = here[0] if isinstance(here, list) else here
            if value is None:
                here.pop(last)
            else:
                here[last] = value
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return tmp_path / "recipe.yaml"

    return make


@pytest.fixture
def far() -> Iterator[Server]:
    """A server that does all that it is asked."""
    with Server() as server:
        yield server


def require_one_error(recipe: Path, words: str, capsys: pytest.CaptureFixture[str], command: str = "capture") -> str:
    """Run a command that has to end with one clear error and to leave nothing behind."""
    before = sorted(recipe.parent.rglob("*"))
    capsys.readouterr()
    assert mashbill([command, str(recipe)]) == 2
    text = capsys.readouterr().err
    assert words in text.replace("\n", " "), text
    assert text.count("error:") == 1, text
    assert "Traceback" not in text
    assert sorted(recipe.parent.rglob("*")) == before
    return text


ENDPOINT = "teachers__endpoint__"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({ENDPOINT + "url": "127.0.0.1:8000/v1"}, "is no address; write it like http://127.0.0.1:8000/v1"),
        ({ENDPOINT + "url": "https://me:hunter2@host/v1"}, "looks like a secret"),
        ({ENDPOINT + "url": "https://host/v1?api_key=hunter2"}, "must be a plain address"),
        ({ENDPOINT + "url": None}, "missing key `url`"),
        ({ENDPOINT + "model": None}, "missing key `model`"),
        ({ENDPOINT + "form": "openai"}, "is not one of: auto, vllm, sglang, completions, steps, chat"),
        ({ENDPOINT + "form": "chat"}, "makes a user's turn of the prompt, and the rows have none"),
        ({ENDPOINT + "api_key": "hunter2"}, "secrets do not belong in a recipe"),
        ({ENDPOINT + "key_variable": "hunter2"}, "never the key itself"),
        ({ENDPOINT + "key_variable": "sk-hunter2hunter2hunter2"}, "looks like a secret"),
        ({ENDPOINT + "key_variable": "MASHBILL_NO_SUCH"}, "the environment variable `MASHBILL_NO_SUCH` is not set"),
        ({ENDPOINT + "concurrency": 0}, "must be at least 1"),
        ({ENDPOINT + "top_logprobs": 0}, "must be at least 1"),
        ({ENDPOINT + "timeout": 0.0}, "must be greater than 0"),
        ({ENDPOINT + "retries": -1}, "must be at least 0"),
        ({"teachers__model": "somewhere"}, "give only one of `model`"),
        ({"teachers__endpoint": None, "teachers__store": None}, "give one of `model`"),
    ],
)
def test_a_bad_recipe_is_refused_without_a_network(
    changes: Mapping[str, Any], words: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write("http://127.0.0.1:9/v1", **changes)
    text = require_one_error(recipe, words, capsys)
    assert "hunter2" not in text
    assert "recipe.yaml:" in text


def test_an_endpoint_without_a_store_is_refused_before_anything_is_paid(
    write: Write, far: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("validate", "distill"):
        text = require_one_error(write(far.url, teachers__store=None), "give the teacher a `store`", capsys, command)
        assert "recipe.yaml:" in text
    assert far.requests == []


def test_one_process_asks_an_endpoint(write: Write, far: Server, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(far.url)
    assert mashbill(["capture", str(recipe), "--workers", "2"]) == 2
    assert "--workers 2: teacher `far` is an endpoint, which one process asks" in capsys.readouterr().err
    assert far.requests == []
    assert not (recipe.parent / "store").exists()


@pytest.mark.parametrize(
    ("habits", "changes", "words"),
    [
        (Habits(models=("llama", "qwen")), {}, "the endpoint has no model `pretend`"),
        (Habits(key="sk-right"), {}, "HTTP 401"),
        (Habits(speaks_logprobs=False), {ENDPOINT + "form": "completions"}, "it says no log-probabilities"),
        (Habits(echoes=False), {}, "says no log-probabilities of the rows' own tokens that can be believed"),
        (Habits(limit=5), {ENDPOINT + "form": "vllm"}, "greater than max allowed: 5"),
        (Habits(words={n: f"x{n}" for n in range(1, 300)}), {}, "does not share the student's vocabulary"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_one_error(
    habits: Habits,
    changes: Mapping[str, Any],
    words: str,
    write: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Server(habits) as server:
        require_one_error(write(server.url, **changes), words, capsys)


class Page(Handler):
    """Answers with a page."""

    def _serve(self, body: bytes) -> None:
        self.send_bytes(200, b"<html>Welcome</html>", {}, kind="text/html")


class Empty(Handler):
    """Answers with nothing that was asked for."""

    def _serve(self, body: bytes) -> None:
        self.send_bytes(200, b"{}", {})


@pytest.mark.parametrize(
    ("handler", "words"),
    [(Page, "answers with a web page, not with JSON: <html>Welcome"), (Empty, "its reply has no `choices`")],
)
def test_what_is_no_endpoint_is_one_error(
    handler: type[Handler], words: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(handler=handler) as server:
        require_one_error(write(server.url), words, capsys)


def test_a_dead_endpoint_is_one_error(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        url = server.url
    require_one_error(write(url), "nobody answers", capsys)


def test_a_host_that_does_not_exist_is_one_error(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    require_one_error(write("http://no-such-host.invalid/v1"), "cannot reach it", capsys)


def test_the_client_is_missing(write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(endpoint_teachers, "find_spec", lambda name: None)
    require_one_error(write("http://127.0.0.1:9/v1"), "the package `openai` is not installed", capsys)


def test_a_classifier_cannot_hear_tokens(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write("http://127.0.0.1:9/v1")
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values["student"] = {"kind": "classifier", "architecture": "hashed_ngram", "labels": ["a", "b"]}
    values["data"] |= {"format": "classification", "label_column": "completion"}
    values["student"]["labels"] = TEXTS
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    require_one_error(recipe, "an endpoint says tokens, but the student is a classifier", capsys)


def test_validate_asks_nobody(write: Write, far: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert mashbill(["capture", str(write(far.url))]) == 0
    far.requests.clear()
    assert mashbill(["validate", str(write(far.url))]) == 0
    assert far.requests == []
    assert "far" in capsys.readouterr().out


def test_a_capture_asks_an_endpoint_once_and_a_run_never(
    write: Write, far: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-far-0123456789abcdef")
    kept = write(far.url, train__logging_steps=1, **{ENDPOINT + "key_variable": "FAR_KEY"})
    assert mashbill(["capture", str(kept)]) == 0
    asked = [body for _, _, body in far.requests if body]
    assert 0 < len(asked) <= 2 * len(TEXTS) + 8  # rows and evaluation, the first row once more, and the self-test
    # From here on neither key nor endpoint are needed.
    monkeypatch.delenv("FAR_KEY")
    far.requests.clear()
    assert mashbill(["distill", str(kept)]) == 0, capsys.readouterr().err
    assert far.requests == []
    told = capsys.readouterr()
    files = [file for file in kept.parent.rglob("*") if file.is_file()]
    assert not any(b"sk-far" in file.read_bytes() for file in files)
    assert "sk-far" not in told.out + told.err
    assert len(_losses(kept.parent / "run")) == 2


def test_a_store_is_compared_with_what_its_endpoint_says_today(
    write: Write, far: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(far.url)
    assert mashbill(["capture", str(recipe)]) == 0
    verify = ["verify", str(recipe.parent / "store"), "--recipe", str(recipe)]
    plain = pretend.next_logprobs

    def noisy(prefix: tuple[int, ...], size: int) -> tuple[float, ...]:
        return tuple(one - 0.02 * (id % 2) for id, one in enumerate(plain(prefix, size)))

    monkeypatch.setattr(pretend, "next_logprobs", noisy)
    assert mashbill(verify) == 0, capsys.readouterr()
    monkeypatch.setattr(pretend, "next_logprobs", lambda prefix, size: plain((*prefix, 7), size))
    assert mashbill(verify) == 4
    told = capsys.readouterr()
    assert "apart from those of its teacher today" in told.out + told.err


def _losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_a_chat_teaches_completions(write: Write, far: Server) -> None:
    changes = {"data__format": "prompt_completion", ENDPOINT + "form": "chat", "train__logging_steps": 1}
    recipe = write(far.url, **changes)
    assert mashbill(["capture", str(recipe)]) == 0
    assert mashbill(["distill", str(recipe)]) == 0
    assert len(_losses(recipe.parent / "run")) == 2


def test_a_store_goes_on_elsewhere_and_with_more_rows(
    write: Write, far: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(far.url)
    assert mashbill(["capture", str(recipe)]) == 0
    with (recipe.parent / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "new", "text": "five, four, three"}) + "\n")
    with Server() as other:
        changes = {"teachers__batch_size": 3, "capture": {"threads": 2}}
        capsys.readouterr()
        assert mashbill(["capture", str(write(other.url, **changes))]) == 0
        said = capsys.readouterr()
        assert "of them are answered already, and taken over" in said.err
    assert mashbill(["verify", str(recipe.parent / "store")]) == 0
    assert mashbill(["capture", str(recipe)]) == 0
    assert "nothing to capture: every shard is there" in capsys.readouterr().err
