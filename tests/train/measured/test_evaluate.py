import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mashbill.train.intervals import proportion
from mashbill.train.students import load_student


def entry(done, who: str, *, by: str = "all", name: str = "all") -> dict:
    (found,) = [each for each in done.result["entries"] if (each["who"], each["by"], each["name"]) == (who, by, name)]
    return found


def test_everyone_is_judged_on_every_grouping(classifier_run):
    result = classifier_run.result
    assert (result["kind"], result["primary"], result["confidence"]) == ("classifier", "accuracy", 0.95)
    assert {each["who"] for each in result["entries"]} == {"student", "teacher:germanic", "teacher:romance", "pool"}
    names = {(each["by"], each["name"]) for each in result["entries"]}
    assert names == {("all", "all"), ("task", "ui"), ("task", "docs"), ("context", "short"), ("context", "long")}
    assert len(result["entries"]) == 4 * 5
    assert classifier_run.read("result.json") == result


def test_the_students_accuracy_is_that_of_the_saved_student(classifier_run):
    from mashbill.train.corpus import build_corpus
    from mashbill.train.data import read_rows

    loaded = classifier_run.loaded
    student = load_student(classifier_run.directory / "student")
    student.module.eval()
    rows = read_rows(loaded.resolve("eval.jsonl"), loaded.recipe.data)
    corpus = build_corpus(student, rows, max_length=loaded.recipe.data.max_length)
    batch = corpus.batch(torch.arange(len(corpus)))
    with torch.no_grad():
        logprobs = student.logits(batch)[:, 0].log_softmax(-1)
    labels = batch.labels[:, 0]
    right = int((logprobs.argmax(-1) == labels).sum())
    found = entry(classifier_run, "student")
    assert found["accuracy"] == vars(proportion(right, len(rows), confidence=0.95))
    assert found["loss"]["value"] == pytest.approx(float(-logprobs.gather(1, labels[:, None]).mean()), abs=1e-5)


def test_each_teacher_fails_on_the_language_it_cannot_name_and_the_pool_does_not(classifier_run):
    assert entry(classifier_run, "teacher:germanic")["accuracy"]["value"] == pytest.approx(2 / 3)
    assert entry(classifier_run, "teacher:germanic")["safety"]["value"] == 0.0  # only French rows are critical
    assert entry(classifier_run, "teacher:romance")["safety"]["value"] == 1.0
    assert entry(classifier_run, "pool")["accuracy"]["value"] > 0.95
    assert entry(classifier_run, "pool")["n_critical"] == 5


def test_reliability_is_given_for_the_whole_set_only_and_counts_every_row(classifier_run):
    assert sum(each["n"] for each in entry(classifier_run, "student")["reliability"]) == 60
    assert entry(classifier_run, "student", by="task", name="ui")["reliability"] == []
    assert entry(classifier_run, "student", by="task", name="ui")["n"] == 30


def test_paired_differences_agree_with_the_entries(classifier_run):
    for line in classifier_run.result["paired"]:
        gap = (
            entry(classifier_run, "student")["accuracy"]["value"]
            - entry(classifier_run, line["second"])["accuracy"]["value"]
        )
        assert line["accuracy"]["value"] == pytest.approx(gap)
    assert [line["second"] for line in classifier_run.result["paired"]] == [
        "teacher:germanic",
        "teacher:romance",
        "pool",
    ]


def test_outcomes_by_row_add_up_to_the_result(classifier_run):
    columns = load_file(classifier_run.directory / "outcomes.safetensors")
    n, n_correct = columns["held_out/n"], columns["held_out/n_correct"]
    assert n_correct.sum() / n.sum() == pytest.approx(entry(classifier_run, "student")["accuracy"]["value"])
    assert (columns["held_out/task"] >= 0).all()


def test_examples_show_each_task_and_context_and_are_aligned(classifier_run):
    examples = classifier_run.read("examples.json")
    assert 1 <= len(examples) <= 24
    assert {each["task"] for each in examples} == {"ui", "docs"}
    assert {each["context"] for each in examples} == {"short", "long"}
    for each in examples:
        assert len(each["tokens"]) == len(each["labels"]) == len(each["weights"]) == 1
        assert sum(each["weights"][0].values()) == pytest.approx(1, abs=1e-5)
        assert each["dominant"][0] == max(each["weights"][0], key=each["weights"][0].get)
        assert set(each["teachers"][0]) == {"germanic", "romance"}
        assert each["student"][0] in ("de", "en", "fr")


def test_a_language_model_is_judged_by_tokens_with_rows_as_units(causal_run):
    found = entry(causal_run, "student")
    assert causal_run.result["primary"] == "perplexity"
    assert found["perplexity"]["value"] == pytest.approx(math.exp(found["loss"]["value"]))
    assert found["n_rows"] == 6  # the long text was cut into blocks and still is one row
    assert found["n"] > 200
    assert found["safety"] is None
    assert found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"]


def test_a_language_models_loss_is_that_of_transformers(causal_run, tokenizer):
    import json

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(causal_run.directory / "student")
    total, n = 0.0, 0
    for line in causal_run.loaded.resolve("eval.jsonl").read_text(encoding="utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"])["input_ids"] + [tokenizer.eos_token_id]
        if len(ids) > 101:
            continue
        with torch.no_grad():
            logprobs = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        total -= float(logprobs.gather(1, torch.tensor(ids[1:])[:, None]).sum())
        n += len(ids) - 1
    columns = load_file(causal_run.directory / "outcomes.safetensors")
    short = columns["held_out/n"] <= 100
    assert columns["held_out/n"][short].sum() == n
    assert columns["held_out/nll"][short].sum() == pytest.approx(total, rel=1e-5)


def test_teachers_losses_are_exact_although_only_top_entries_are_stored(causal_run, tokenizer):
    import json

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(causal_run.loaded.resolve("first"))
    losses = []
    for line in causal_run.loaded.resolve("eval.jsonl").read_text(encoding="utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"])["input_ids"] + [tokenizer.eos_token_id]
        for start in range(0, len(ids) - 1, 100):
            block = torch.tensor(ids[start : start + 101])
            with torch.no_grad():
                logprobs = model(block[None, :-1]).logits[0].log_softmax(-1)
            losses += (-logprobs.gather(1, block[1:, None])[:, 0]).tolist()
    found = entry(causal_run, "teacher:first")
    assert found["n"] == len(losses)
    assert found["loss"]["value"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_sequences_example_is_a_window_with_readable_tokens(causal_run):
    examples = causal_run.read("examples.json")
    assert 1 <= len(examples) <= 6
    assert all(1 <= len(each["tokens"]) <= 64 for each in examples)
    assert any(len(each["tokens"]) == 64 for each in examples)
    text = {each["row_id"]: "".join(each["tokens"]) for each in examples}
    assert text["t3"] == "naïve façade"
    assert "\ufffd" not in json_of(examples)


def json_of(value) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
