"""What a model does between its last hidden state and its logits is part of what it says.

Soft caps and scales have to reach the teacher's log-probabilities; hidden states times the head's rows would miss them.
"""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
)

from mashbill.distributions import Dense, measure
from mashbill.teachers import LocalCausalLM

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
MODELS = {
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 16, "final_logit_softcapping": 2.0}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 16, "final_logit_softcapping": 2.0}),
    "cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.0625}),
    "granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 8.0}),
}


@pytest.fixture(params=MODELS)
def model(request, llama):
    kind, config, options = MODELS[request.param]
    torch.manual_seed(0)
    return kind(config(vocab_size=len(llama.vocabulary), **(SMALL | options))).eval()


@pytest.mark.parametrize("top_k", [None, 9])
def test_caps_and_scales_are_honoured(model, llama, build, causal_inputs, tmp_path, top_k):
    inputs = causal_inputs(llama.tokenizer)
    folder = build.save(tmp_path / "model", model, llama.tokenizer)
    scored = LocalCausalLM("t", folder, llama.vocabulary, top_k=top_k).score(inputs)
    attended = torch.arange(inputs.mask.shape[1]) <= (inputs.mask * torch.arange(inputs.mask.shape[1])).amax(1, True)
    with torch.no_grad():
        output = model(inputs.input_ids, attention_mask=attended.long(), output_hidden_states=True)
    expected = output.logits.log_softmax(-1)[inputs.mask]
    if top_k is None:
        assert torch.allclose(scored.distribution.logprobs[inputs.mask], expected, atol=2e-5)
    else:
        kept = scored.distribution
        assert torch.allclose(kept.logprobs[inputs.mask], expected.topk(top_k).values, atol=2e-5)
    exact = measure(Dense(expected), labels=inputs.labels[inputs.mask])
    assert torch.allclose(scored.statistics.entropy[inputs.mask], exact.entropy, atol=1e-4)
    bare = (output.hidden_states[-1] @ model.get_output_embeddings().weight.T).log_softmax(-1)[inputs.mask]
    assert (bare - expected).abs().mean() > 0.1  # or this test would hold for any teacher
