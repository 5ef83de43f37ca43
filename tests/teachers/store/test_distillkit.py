"""The bytes of a capture, against the layout that is documented."""

import math

import pytest
import torch
from teachers.store.distillkit_writer import BINNED, BUDGET, EXACT, PUBLISHED, RECOMMENDED, compressed

from mashbill.errors import MashbillError
from mashbill.teachers.store.distillkit import Settings, read_settings, restore, unpacked

V = 1000


def lists(k, n=40, *, seed=0):
    """Return top entries of distributions as peaked as those of a language model."""
    generator = torch.Generator().manual_seed(seed)
    logits = -1.2 * torch.arange(1, V + 1).double().log() * (1 + torch.rand(n, 1, generator=generator))
    logits += torch.randn(n, V, generator=generator) * 0.3
    logprobs = logits.log_softmax(-1)[:, torch.randperm(V, generator=generator)]
    found = logprobs.topk(k, dim=-1)
    return found.indices, found.values


def through(settings, ids, logprobs):
    return restore(*compressed(ids, logprobs, settings), Settings(**settings))


@pytest.mark.parametrize("d", [V, 1024, 1025, 49152])
def test_ids_come_back_whatever_the_bits(d):
    ids, logprobs = lists(16)
    assert torch.equal(through({**EXACT, "d": d}, ids, logprobs).ids, ids)


def test_bits_lie_high_ones_first_across_bytes():
    assert unpacked(torch.tensor([[0b10100111, 0b01000000]], dtype=torch.uint8).numpy(), 3, 3).tolist() == [[5, 1, 6]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("delta", [False, True])
def test_exact_entries_are_off_by_their_rounding(dtype, delta):
    ids, logprobs = lists(16)
    found = through({**EXACT, "d": V, "exact_dtype": dtype, "delta_encoding": delta}, ids, logprobs)
    off = (found.logprobs - logprobs).abs()
    assert (off <= found.error + 2e-6).all()
    if dtype == "bfloat16":
        assert off.max() > found.error.max() / 20


@pytest.mark.parametrize("element_bits", [1, 2, 3, 8, 12, 16])
@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16", "float32"])
def test_entries_in_bins_are_off_by_their_steps(element_bits, scale_dtype):
    bins = [{"scale_dtype": scale_dtype, "element_bits": element_bits, "num_elements": n} for n in (5, 27)]
    ids, logprobs = lists(48)
    settings = {**BINNED, "d": V, "k": 48, "residual_bins": bins}
    found = through(settings, ids, logprobs)
    off = (found.logprobs - logprobs).abs()
    assert found.error[:, 16:48].isfinite().all()
    assert (off <= found.error + 1e-4).all()
    assert off[:, 16:].max() > found.error[:, 16:].median() / 4


def test_a_curve_alone_has_no_bound_and_is_right_where_the_list_is_a_curve():
    ids, _ = lists(128)
    rank = torch.arange(128).double()
    logprobs = (-0.5 - 0.3 * rank.sqrt() - 0.01 * rank).expand(40, 128).contiguous()
    found = through({**RECOMMENDED, "d": V, "exact_k": 0, "normalize_t": True}, ids, logprobs)
    assert found.error.isinf().all()
    assert (found.logprobs - logprobs).abs().max() < 1e-3


@pytest.mark.parametrize(("settings", "most"), [(RECOMMENDED, 0.1), (BUDGET, 0.5), (PUBLISHED, 0.5), (BINNED, 0.1)])
def test_documented_settings_come_back_nearly(settings, most):
    ids, logprobs = lists(settings["k"])
    found = through({**settings, "d": V}, ids, logprobs)
    assert torch.equal(found.ids, ids)
    assert (found.logprobs - logprobs).abs().mean() < most
    known = Settings(**{**settings, "d": V})
    written = compressed(ids, logprobs, {**settings, "d": V})
    assert (written[0].shape[1], written[1].shape[1]) == (known.logprob_bytes, known.index_bytes)


def test_a_list_that_was_shorter_ends_in_nothing():
    ids, logprobs = lists(16)
    logprobs[3, 10:] = -torch.inf
    found = through({**EXACT, "d": V}, ids, logprobs)
    assert found.logprobs[3, 10:].isneginf().all()
    assert found.logprobs[2].isfinite().all()


def test_documented_sizes():
    # "around 114 bytes per token" and "~300": the documentation's own figures, for vocabularies of some 2**17.
    sizes = {
        name: Settings(**{**one, "d": 128256}) for name, one in {"budget": BUDGET, "recommended": RECOMMENDED}.items()
    }
    assert sizes["budget"].logprob_bytes + sizes["budget"].index_bytes == 2 + 12 + math.ceil(50 * 17 / 8) == 121
    assert sizes["recommended"].logprob_bytes + sizes["recommended"].index_bytes == 32 + 24 + 272


GOOD = "d: 1000\nk: 16\nexact_k: 16\nresidual_bins: []\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("d: 1000\nk: [", "cannot read how the capture was written"),
        ("- 1\n- 2\n", "d: Field required"),
        (GOOD.replace("k: 16\nexact", "k: sixteen\nexact"), "k: Input should be a valid integer"),
        (GOOD.replace("exact_k: 16", "exact_k: 17"), "exact_k=17 is more than k=16"),
        (GOOD.replace("exact_k: 16", "exact_k: 15"), "nothing is kept of entries 15 to 15"),
        (GOOD + "entropy_coding: true\n", "entropy_coding: Extra inputs are not permitted"),
        (GOOD + "exact_dtype: int8\n", "exact_dtype: Input should be 'float16'"),
        (GOOD + "polynomial_terms: [0, log]\n", "polynomial_terms"),
        ("legacy_logit_compression: {k: 128, exact_k: 32, polynomial_degree: 8, vocab_size: 9}\n", "which is not read"),
    ],
)
def test_what_is_no_setting_is_refused(tmp_path, text, told):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(MashbillError, match=told):
        read_settings(tmp_path / "config.yaml")


def test_settings_are_found_in_a_training_configuration(tmp_path):
    nested = "teacher:\n  kind: dataset\n  logprob_compressor:\n    " + GOOD.replace("\n", "\n    ")
    (tmp_path / "config.yaml").write_text(nested)
    (tmp_path / "plain.yaml").write_text(GOOD)
    assert read_settings(tmp_path / "config.yaml") == read_settings(tmp_path / "plain.yaml")
