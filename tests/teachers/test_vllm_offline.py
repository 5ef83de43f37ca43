"""vLLM's offline engine against the same model in ``transformers``.

The engine here is pretended: it has the shape of vLLM's outputs, with a real model behind it. The engine itself is
compared in ``tests/servers``, where it is installed.
"""

from dataclasses import replace

import pytest
import torch
from teachers.pretended_vllm import Logprob, PretendedLLM

from mashbill.errors import MashbillError, TeacherError, VocabularyError
from mashbill.teachers import LocalCausalLM, vllm_offline
from mashbill.teachers.vllm_offline import OfflineVllm


@pytest.fixture
def inputs(llama, causal_inputs):
    return causal_inputs(llama.tokenizer)


def teacher_of(llama, *, opened=None, top_k=8, options=None, **pretended):
    def open_engine(settings, n_logprobs):
        if opened is not None:
            opened.append((dict(settings), n_logprobs))
        return PretendedLLM(llama.model, **pretended), n_logprobs

    return OfflineVllm("t", llama.path, llama.vocabulary, top_k=top_k, options=options, open_engine=open_engine)


@pytest.mark.parametrize("top_k", [8, 200, None])
def test_it_says_what_a_local_forward_says(llama, inputs, top_k):
    got = teacher_of(llama, top_k=top_k).score(inputs)
    want = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None).score(inputs)
    dense = want.distribution.logprobs[inputs.mask]
    for ids, logprobs, log_tail, whole in zip(
        got.distribution.ids[inputs.mask],
        got.distribution.logprobs[inputs.mask],
        got.distribution.log_tail[inputs.mask],
        dense,
        strict=True,
    ):
        kept = ids[ids >= 0]
        assert torch.allclose(logprobs[ids >= 0], whole[kept], atol=1e-4)
        best = whole.topk(min(top_k or len(whole), len(whole))).indices
        assert set(best.tolist()) <= set(kept.tolist())
        rest = 1 - whole[kept].double().exp().sum()
        assert abs(float(log_tail.exp()) - float(rest)) < 1e-4
    exact, said = want.statistics, got.statistics
    assert torch.allclose(said.label_logprob[inputs.mask], exact.label_logprob[inputs.mask], atol=1e-4)
    assert (said.entropy_low[inputs.mask] <= exact.entropy[inputs.mask] + 1e-3).all()
    assert (said.entropy[inputs.mask] >= exact.entropy[inputs.mask] - 1e-3).all()


def test_rows_that_do_not_count_are_not_asked_and_are_even(llama, inputs):
    mask = inputs.mask.clone()
    mask[2] = False
    opened = []
    teacher = teacher_of(llama, opened=opened)
    scored = teacher.score(replace(inputs, mask=mask))
    engine = teacher._opened[0]
    assert len(engine.calls[0][0]) == len(mask) - 1
    assert (scored.distribution.log_tail[2] == 0).all()


def test_each_row_is_asked_with_its_last_label_and_nothing_behind(llama, inputs):
    teacher = teacher_of(llama)
    early = replace(inputs, mask=inputs.mask & (torch.arange(inputs.mask.shape[1]) < 4))
    teacher.score(early)
    prompts = [one["prompt_token_ids"] for one in teacher._opened[0].calls[0][0]]
    assert prompts == [
        [*row[:4].tolist(), int(labels[3])] for row, labels in zip(inputs.input_ids, inputs.labels, strict=True)
    ]


def test_prefixes_are_not_cached_and_probabilities_are_those_of_the_model(llama, inputs):
    opened = []
    teacher = teacher_of(llama, opened=opened, options={"tensor_parallel_size": 2})
    teacher.score(inputs)
    teacher.score(inputs)
    (settings, n_logprobs), *more = opened
    assert not more
    assert settings == {
        "model": str(llama.path),
        "dtype": "float32",
        "max_logprobs": 8,
        "enable_prefix_caching": False,
        "logprobs_mode": "raw_logprobs",
        "trust_remote_code": False,
        "tensor_parallel_size": 2,
    }
    assert n_logprobs == 8
    teacher.release()
    teacher.score(inputs)
    assert len(opened) == 2


@pytest.mark.parametrize("option", vllm_offline.OWN)
def test_settings_that_would_make_answers_wrong_are_refused(llama, option):
    with pytest.raises(MashbillError, match=f"`{option}` is no option of teacher `t`"):
        teacher_of(llama, options={option: True})


def other_tokens(output):
    output.prompt_token_ids = output.prompt_token_ids[:-1]


def fewer(output):
    output.prompt_logprobs = output.prompt_logprobs[:-1]


def nothing(output):
    output.prompt_logprobs = None


def at_last(change):
    return lambda output: change(output.prompt_logprobs[-1], output.prompt_token_ids[-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_tokens, "about other tokens"),
        (fewer, "positions are answered"),
        (nothing, "0 positions are answered"),
        (at_last(lambda entry, own: entry.pop(own)), "does not say how probable its own token"),
        (at_last(lambda entry, own: entry.update({own: Logprob(float("nan"))})), "not finite"),
        (at_last(lambda entry, own: entry.update({own: Logprob(0.3)})), "above 0"),
        (at_last(lambda entry, own: entry.update({own: Logprob(-0.01), 7: Logprob(-0.01)})), "sum to"),
        (at_last(lambda entry, own: [entry.pop(id) for id in list(entry)[1:4] if id != own]), "8 were asked for"),
    ],
)
def test_answers_that_cannot_be_are_refused_by_row(llama, inputs, spoil, message):
    whole = replace(inputs, mask=inputs.labels != -100)
    with pytest.raises(TeacherError, match=rf"{message}(.|\n)*row `row-0`"):
        teacher_of(llama, spoil=spoil).score(whole)


def test_a_row_that_the_engine_cannot_take_is_named(llama, inputs):
    longest = int(inputs.mask.sum(1).max())
    teacher_of(llama, max_model_len=longest + 2).score(inputs)
    with pytest.raises(TeacherError, match=r"tokens, and \d+ can be scored(.|\n)*row `row-0`"):
        teacher_of(llama, max_model_len=longest + 1).score(inputs)


def test_an_engine_that_does_not_open_is_one_error(llama, inputs):
    def broken(settings, n_logprobs):
        raise RuntimeError("no device")

    with pytest.raises(MashbillError, match="teacher `t` cannot be opened: RuntimeError: no device"):
        OfflineVllm("t", llama.path, llama.vocabulary, open_engine=broken).score(inputs)


def test_without_the_package_the_error_says_what_to_install(llama, monkeypatch):
    monkeypatch.setattr(vllm_offline, "find_spec", lambda name: None)
    with pytest.raises(MashbillError, match=r"pip install 'mashbill\[vllm\]'"):
        OfflineVllm("t", llama.path, llama.vocabulary)


def test_another_vocabulary_is_refused(llama, build):
    other = vllm_offline.Vocabulary.from_tokenizer(build.tokenizer("one two three four five " * 9, 300))
    with pytest.raises(VocabularyError, match="does not share the student's vocabulary"):
        OfflineVllm("t", llama.path, other, open_engine=lambda *_: None)


def test_identity_says_how_the_engine_is_set(llama):
    base = dict(teacher_of(llama).identity())
    assert base["engine"].endswith("prefix caching off")
    assert base != dict(teacher_of(llama, options={"seed": 1}).identity())
    assert base["sha256"] == LocalCausalLM("t", llama.path, llama.vocabulary).identity()["sha256"]
