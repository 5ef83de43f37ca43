"""A GGUF file answers as the model that it was made from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mashbill.errors import VocabularyError
from mashbill.teachers import LocalCausalLM, Vocabulary

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(file: Path, model, tokenizer) -> None:
    """Write a tied Llama and its byte-level BPE, unquantised."""
    config, writer = model.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<pad>", "<eos>") else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(*_stored(name, tensor.numpy(), config.num_attention_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(name: str, values: np.ndarray, n_heads: int) -> tuple[str, np.ndarray]:
    if "q_proj" in name or "k_proj" in name:  # GGUF keeps the two halves of a rotation side by side
        halves = values.reshape(n_heads, 2, values.shape[0] // n_heads // 2, -1)
        values = halves.swapaxes(1, 2).reshape(values.shape)
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name, np.ascontiguousarray(values)


def test_distributions_are_those_of_the_model(llama, causal_inputs, tmp_path):
    write_gguf(tmp_path / "m.gguf", llama.model, llama.tokenizer)
    teacher = LocalCausalLM("t", tmp_path, llama.vocabulary, gguf_file="m.gguf", top_k=None)
    inputs = causal_inputs(llama.tokenizer)
    expected = LocalCausalLM("t", llama.path, llama.vocabulary, top_k=None).score(inputs)
    scored = teacher.score(inputs)
    assert torch.allclose(scored.distribution.logprobs, expected.distribution.logprobs, atol=2e-5)
    assert teacher.identity()["source"] == "m.gguf"


def test_the_files_own_tokenizer_is_compared(llama, build, tmp_path):
    write_gguf(tmp_path / "m.gguf", llama.model, llama.tokenizer)
    other = Vocabulary.from_tokenizer(build.tokenizer("import os, sys\nprint(os.stat(path))\n" * 9, 320))
    with pytest.raises(VocabularyError, match="does not share the student's vocabulary"):
        LocalCausalLM("t", tmp_path, other, gguf_file="m.gguf")
