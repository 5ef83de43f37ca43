"""Questions to servers in tests, and whether an answer is the truth."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from servers.pretend import next_logprobs

from mashbill.distributions import TopK
from mashbill.teachers.endpoint.contact import probe_of
from mashbill.teachers.endpoint.settings import FormName, Settings
from mashbill.teachers.endpoint.teacher import EndpointTeacher
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.teachers.token_bytes import TokenBytes
from mashbill.teachers.vocabulary import Vocabulary

MakeTeacher = Callable[..., EndpointTeacher]


class FarModel:
    """Makes teachers behind endpoints for one tokenizer.

    Args:
        tokenizer: The student's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._made: list[EndpointTeacher] = []

    def __call__(self, url: str, form: FormName, k: int = 20) -> EndpointTeacher:
        """Return the teacher behind an address."""
        tokens = TokenBytes.of(self._tokenizer, owner="the student")
        probe = probe_of(self._tokenizer, tokens)
        settings = Settings(url=url, model="smollm2", form=form, top_logprobs=k, concurrency=4, backoff=0.01)
        vocabulary = Vocabulary.from_tokenizer(self._tokenizer)
        self._made.append(EndpointTeacher("far", settings, vocabulary, tokens, probe=probe))
        return self._made[-1]

    def release(self) -> None:
        """Close all connections."""
        for one in self._made:
            one.release()


def gaps(scored: Scored, truth: Scored, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far kept log-probabilities are off, in nats, and how far tail masses are."""
    kept, whole = scored.distribution, truth.distribution.logprobs
    assert isinstance(kept, TopK)
    used = (kept.ids >= 0) & mask.unsqueeze(-1)
    there = whole.gather(-1, kept.ids.clamp_min(0))
    tail = 1 - (there.exp() * (kept.ids >= 0)).sum(-1)
    return (kept.logprobs - there)[used].abs(), (kept.log_tail.exp() - tail)[mask].abs()


def inputs_of(tokenizer: Any, texts: Sequence[str], *, n_prompt: int = 0, ends: bool = True) -> Inputs:
    """Return rows as the trainer cuts them; the first ``n_prompt`` labels do not count."""
    rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * ends for text in texts]
    width = max(map(len, rows)) - 1
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for n, row in enumerate(rows):
        ids[n, : len(row) - 1] = torch.tensor(row[:-1])
        labels[n, n_prompt : len(row) - 1] = torch.tensor(row[1 + n_prompt :])
    return Inputs(tuple(f"r{n}" for n in range(len(rows))), tuple(texts), ids, labels, labels != -100)


def require_truth(scored: Scored, inputs: Inputs, size: int, *, label_is_known: bool, user: Any = None) -> int:
    """Compare every entry, tail and label with the model; return how many positions there were."""
    found, n = scored.distribution, 0
    assert isinstance(found, TopK)
    for row, at in inputs.mask.nonzero().tolist():
        prefix = tuple(inputs.input_ids[row, : at + 1].tolist()) if user is None else user(row, at)
        truth = torch.tensor(next_logprobs(prefix, size))
        used = found.ids[row, at] >= 0
        ids, kept = found.ids[row, at][used], found.logprobs[row, at][used]
        torch.testing.assert_close(kept, truth[ids].float(), atol=1e-5, rtol=0)
        tail = 1 - truth[ids].exp().sum()
        assert float(found.log_tail[row, at].exp()) == pytest.approx(float(tail), abs=1e-5)
        label = int(inputs.labels[row, at])
        if label_is_known or label in ids.tolist():
            assert float(scored.statistics.label_logprob[row, at]) == pytest.approx(float(truth[label]), abs=1e-4)
        entropy = float(-(truth.exp() * truth).sum())
        low, high = float(scored.statistics.entropy_low[row, at]), float(scored.statistics.entropy[row, at])
        assert low - 1e-5 <= entropy <= high + 1e-5
        if int(truth.argmax()) in ids.tolist():  # Parts of characters have no certain id where tokens come as text.
            assert float(scored.statistics.max_logprob[row, at]) == pytest.approx(float(truth.max()), abs=1e-5)
        n += 1
    return n
