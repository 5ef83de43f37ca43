"""An engine with the faces of vLLM's that this package uses, around a model of ``transformers``.

Its outputs have the shape that vLLM documents: for each token of the prompt but the first, a dictionary from ids to
``Logprob``, of the ``k`` most probable ones and of the token itself.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class PretendedLLM:
    """What ``vllm.LLM(**settings)`` is for this package; ``spoil`` changes what it says."""

    def __init__(self, model, *, max_model_len=128, spoil=lambda output: None):
        self.model, self.spoil, self.calls = model, spoil, []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=max_model_len))

    def generate(self, prompts, sampling, *, use_tqdm):
        self.calls.append((prompts, sampling, use_tqdm))
        return [self._one(prompt["prompt_token_ids"], sampling) for prompt in prompts]

    def _one(self, tokens, k):
        with torch.no_grad():
            whole = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        told = [None]
        for place, token in enumerate(tokens[1:]):
            row = whole[place]
            top = row.topk(len(row) if k == -1 else k)
            found = {int(token): Logprob(float(row[token]), int((row > row[token]).sum()) + 1)}
            found |= {
                int(id): Logprob(float(number), rank + 1)
                for rank, (id, number) in enumerate(zip(top.indices, top.values, strict=True))
            }
            told.append(found)
        output = SimpleNamespace(prompt_token_ids=list(tokens), prompt_logprobs=told, outputs=[])
        self.spoil(output)
        return output
