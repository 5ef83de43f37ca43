"""A local causal language model against a direct call of the same model."""

import math
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, TopK, measure
from mashbill.errors import TeacherError, VocabularyError
from mashbill.teachers import LocalCausalLM, Vocabulary, positions


@pytest.fixture
def inputs(llama, causal_inputs):
    return causal_inputs(llama.tokenizer)


def oracle(llama, inputs) -> torch.Tensor:
    """Log-probabilities ``[B T V]``, one row at a time and without padding; NaN where nothing counts."""
    out = torch.full((*inputs.mask.shape, len(llama.vocabulary)), torch.nan)
    for row, mask in enumerate(inputs.mask):
        length = int(mask.nonzero().max()) + 1
        with torch.no_grad():
            logits = llama.model(input_ids=inputs.input_ids[row : row + 1, :length]).logits[0]
        out[row, :length][mask[:length]] = logits[mask[:length]].log_softmax(-1)
    return out


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, atol=2e-5, equal_nan=True)


def test_every_counted_position_has_the_models_distribution(llama, inputs):
    scored = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None, batch_size=3).score(inputs)
    assert isinstance(scored.distribution, Dense)
    assert close(scored.distribution.logprobs[inputs.mask], oracle(llama, inputs)[inputs.mask])
    even = torch.full_like(scored.distribution.logprobs[~inputs.mask], -math.log(len(llama.vocabulary)))
    assert torch.equal(scored.distribution.logprobs[~inputs.mask], even)


def test_top_k_cuts_the_distribution_but_not_the_statistics(llama, inputs):
    scored = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=5, batch_size=16).score(inputs)
    whole = oracle(llama, inputs)[inputs.mask]
    assert isinstance(scored.distribution, TopK)
    assert scored.distribution.ids.shape == (*inputs.mask.shape, 5)
    kept = whole.topk(5, dim=-1)
    assert close(scored.distribution.logprobs[inputs.mask], kept.values)
    assert close(scored.distribution.log_tail[inputs.mask].exp(), 1 - kept.values.exp().sum(-1))
    exact = measure(Dense(whole), labels=inputs.labels[inputs.mask])
    for name in ("entropy", "entropy_low", "gini", "margin", "max_logprob", "label_logprob"):
        assert close(getattr(scored.statistics, name)[inputs.mask], getattr(exact, name)), name
    guessed = measure(TopK(kept.indices, kept.values, (1 - kept.values.exp().sum(-1)).log(), len(llama.vocabulary)))
    assert not close(scored.statistics.entropy[inputs.mask], guessed.entropy)


def test_answers_do_not_depend_on_batches_or_padding(llama, inputs, causal_inputs):
    base = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None, batch_size=1).score(inputs)
    wide = causal_inputs(llama.tokenizer, width=40)
    for batch_size, asked in ((2, inputs), (16, inputs), (3, wide)):
        other = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None, batch_size=batch_size).score(asked)
        n = inputs.mask.shape[1]
        assert close(other.distribution.logprobs[:, :n], base.distribution.logprobs)
        assert close(other.statistics.entropy[:, :n], base.statistics.entropy)


@pytest.mark.parametrize("filler", [7, -100, 10**6])
def test_what_lies_behind_a_row_does_not_matter(llama, inputs, filler):
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=4, batch_size=3)
    behind = inputs.mask.flip(1).cumsum(1).flip(1) == 0
    other = teacher.score(replace(inputs, input_ids=torch.where(behind, filler, inputs.input_ids)))
    assert torch.equal(other.distribution.logprobs, teacher.score(inputs).distribution.logprobs)


def test_positions_before_the_first_counted_one_are_context(llama, inputs):
    answer_only = replace(inputs, mask=inputs.mask & (torch.arange(inputs.mask.shape[1]) >= 6))
    whole = oracle(llama, inputs)
    scored = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None).score(answer_only)
    assert close(scored.distribution.logprobs[answer_only.mask], whole[answer_only.mask])


def test_a_row_that_does_not_count_is_not_asked(llama, inputs):
    without = inputs.mask.clone()
    without[2] = False
    scored = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=2).score(replace(inputs, mask=without))
    assert (scored.distribution.ids[2] == -1).all()
    assert (scored.distribution.log_tail[2] == 0).all()


def test_chunks_change_nothing(llama, inputs, monkeypatch):
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=3)
    base = teacher.score(inputs)
    monkeypatch.setattr(positions, "CHUNK_ENTRIES", 7 * len(llama.vocabulary))
    assert torch.equal(teacher.score(inputs).distribution.logprobs, base.distribution.logprobs)
    for name in ("entropy", "label_logprob"):
        chunked = getattr(teacher.score(inputs).statistics, name)
        assert torch.allclose(chunked, getattr(base.statistics, name), rtol=0, atol=0, equal_nan=True)


def test_more_rows_than_the_student_has_take_no_mass(llama, inputs, build, tmp_path):
    wide = build.llama(len(llama.vocabulary) + 12)
    small = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        small[name] = small[name][: len(llama.vocabulary)]
    same = build.llama(len(llama.vocabulary))
    same.load_state_dict(small)
    folder = build.save(tmp_path / "wide", wide, llama.tokenizer)
    scored = LocalCausalLM("t", folder, llama.vocabulary, top_k=None).score(inputs)
    assert scored.distribution.n_entries == len(llama.vocabulary)
    assert close(scored.distribution.logprobs[inputs.mask], oracle(replace(llama, model=same), inputs)[inputs.mask])


def test_padding_rows_of_the_student_take_no_mass(llama, inputs):
    padded = Vocabulary(llama.vocabulary.tokens, len(llama.vocabulary) + 4)
    scored = LocalCausalLM("t", llama.path, padded, top_k=None).score(inputs)
    assert scored.distribution.n_entries == len(padded)
    assert (scored.distribution.logprobs[inputs.mask][:, -4:] == -1e4).all()
    assert close(scored.distribution.logprobs[inputs.mask][:, :-4], oracle(llama, inputs)[inputs.mask])


def test_padding_rows_on_both_sides_take_no_mass(llama, inputs, build, tmp_path):
    folder = build.save(tmp_path / "wide", build.llama(len(llama.vocabulary) + 12), llama.tokenizer)
    tokens = {index: token for index, token in llama.vocabulary.tokens.items() if index != 40}
    scored = LocalCausalLM("t", folder, Vocabulary(tokens, len(llama.vocabulary) + 4), top_k=None).score(inputs)
    unknown = [40, *range(len(llama.vocabulary), len(llama.vocabulary) + 4)]
    assert (scored.distribution.logprobs[inputs.mask][:, unknown] == -1e4).all()
    assert torch.allclose(scored.distribution.logprobs.exp().sum(-1), torch.tensor(1.0), atol=1e-5)


def test_another_tokenizer_of_equal_size_is_refused(llama, build, tmp_path):
    other = build.tokenizer("import os, sys\nfor path in sys.argv: print(os.stat(path))\n" * 9, 300)
    folder = build.save(tmp_path / "other", build.llama(300), other)
    mine = Vocabulary.from_tokenizer(build.tokenizer("one two three four five six seven " * 9, 300))
    with pytest.raises(VocabularyError, match=r"teacher `code` does not share"):
        LocalCausalLM("code", folder, mine)


def test_a_model_without_rows_for_its_tokens_is_refused(llama, inputs, build, tmp_path):
    folder = build.save(tmp_path / "short", build.llama(len(llama.vocabulary) - 5), llama.tokenizer)
    with pytest.raises(VocabularyError, match="output rows, but the student has ids up to"):
        LocalCausalLM("t", folder, llama.vocabulary).score(inputs)


def test_logits_that_are_not_numbers_are_refused_by_row_and_position(llama, inputs, build, tmp_path):
    model = build.llama(len(llama.vocabulary))
    poison = int(inputs.input_ids[3, 4])
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = torch.nan
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num())
    model.config.tie_word_embeddings = False
    folder = build.save(tmp_path / "nan", model, llama.tokenizer)
    rows = replace(inputs, mask=inputs.mask & (inputs.input_ids == poison).cummax(1).values)
    first = (inputs.input_ids == poison).nonzero()[0].tolist()
    with pytest.raises(TeacherError, match=rf"not numbers(.|\n)*row `row-{first[0]}`, position {first[1]}"):
        LocalCausalLM("t", folder, llama.vocabulary).score(rows)


def test_no_gradient_and_no_dropout(llama, inputs):
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary)
    scored = teacher.score(inputs)
    assert not scored.distribution.logprobs.requires_grad
    assert not scored.distribution.logprobs.is_inference()
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_half_precision_stays_near(llama, inputs):
    exact = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None).score(inputs)
    half = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None, dtype="bfloat16").score(inputs)
    assert half.distribution.logprobs.dtype == torch.float32
    assert (half.statistics.entropy - exact.statistics.entropy).abs().mean() < 0.05
    assert not torch.equal(half.distribution.logprobs, exact.distribution.logprobs)


def test_identity_pins_the_weights_and_not_the_folder(llama, build, tmp_path):
    base = LocalCausalLM("t", llama.path, llama.vocabulary).identity()
    other = build.save(tmp_path / "x", build.llama(len(llama.vocabulary), seed=1), llama.tokenizer)
    changed = LocalCausalLM("t", other, llama.vocabulary).identity()
    assert base["sha256"] != changed["sha256"]
    assert base["config"] == changed["config"]
    assert base["tokenizer"] == changed["tokenizer"] == llama.vocabulary.digest
    assert LocalCausalLM("t", llama.path, llama.vocabulary, dtype="bfloat16").identity() != base
    assert LocalCausalLM("t", llama.path, llama.vocabulary, batch_size=2).identity() == base


def test_the_model_is_opened_late_and_can_go(llama, inputs):
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary)
    teacher.identity()
    assert not teacher.lease.is_open
    first = teacher.score(inputs)
    assert teacher.lease.is_open
    teacher.release()
    assert not teacher.lease.is_open
    assert torch.equal(teacher.score(inputs).distribution.logprobs, first.distribution.logprobs)


def test_questions_that_make_no_sense_are_refused(llama, inputs, text_inputs):
    teacher = LocalCausalLM("t", llama.path, llama.vocabulary)
    with pytest.raises(ValueError, match="input_ids=None"):
        teacher.score(text_inputs(["a"]))
    with pytest.raises(ValueError, match="counts no position"):
        teacher.score(replace(inputs, mask=torch.zeros_like(inputs.mask)))
