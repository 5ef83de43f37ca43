"""Answers written in any order, of any width, read back as safetensors."""

import math

import pytest
import torch
from safetensors.torch import load_file

from mashbill.distributions import TopK
from mashbill.errors import TeacherError
from mashbill.numerics import LOG_ZERO
from mashbill.teachers.protocol import Scored
from mashbill.train.spool import Spool
from mashbill.train.targets import _none_asked, collect

STATISTICS = ("entropy", "entropy_low", "gini", "margin", "max_logprob", "label_logprob")


def answers(slots, width, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = len(slots)
    given = {name: torch.rand(n, generator=generator) for name in (*STATISTICS, "log_tail")}
    given["class_mass"] = torch.rand(n, 0)
    given["ids"] = torch.randint(99, (n, width), generator=generator)
    return {**given, "logprobs": -torch.rand(n, width, generator=generator)}


@pytest.mark.parametrize("widths", [(3, 3), (2, 5), (5, 2)])
def test_what_is_written_comes_back_whatever_the_order_and_the_width(tmp_path, widths):
    places = [torch.tensor([4, 1]), torch.tensor([3, 2])]
    parts = [answers(place, width, seed=width) for place, width in zip(places, widths, strict=True)]
    spool = Spool(tmp_path / "file", 5, _none_asked)
    for place, part in zip(places, parts, strict=True):
        spool.write(place, part, n_entries=99)
    spool.finish()
    found = load_file(tmp_path / "file")
    assert set(found) == set(parts[0])
    for place, part, width in zip(places, parts, widths, strict=True):
        assert torch.equal(found["ids"][place][:, :width].long(), part["ids"])
        assert torch.equal(found["logprobs"][place][:, :width], part["logprobs"])
        assert (found["ids"][place][:, width:] == -1).all()
        assert (found["logprobs"][place][:, width:] == LOG_ZERO).all()
        assert all(torch.equal(found[name][place], part[name]) for name in STATISTICS)
    assert found["entropy"][0] == pytest.approx(math.log(99))
    assert (found["ids"][0] == -1).all()


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path, monkeypatch):
    def full(handle, start, n):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mashbill.train.spool.os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Spool(tmp_path / "file", 5, _none_asked).write(torch.tensor([1]), answers([1], 2), n_entries=99)
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_a_teacher_refuses_ends_the_asking(tmp_path):
    from train.test_targets import Echo, ragged_corpus

    class Shy(Echo):
        def score(self, inputs):
            said = super().score(inputs)
            assert isinstance(said.distribution, TopK)
            return Scored(said.distribution, said.statistics, {0: "too long", 1: "too rude"})

    with pytest.raises(TeacherError, match="refuses row `r1`, and 1 more of 2") as caught:
        collect(Shy(top_k=3), ragged_corpus(), tmp_path, batch_size=2)
    assert caught.value.why == "too long"
    assert list(tmp_path.iterdir()) == []
