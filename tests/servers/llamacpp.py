"""llama.cpp's own server in this process, with float32 wherever it can be told to use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serving(model: Path, *, name: str) -> Iterator[str]:
    """Serve a model on a port of this machine; yield the endpoint's address."""
    import xllamacpp

    given: Any = xllamacpp.CommonParams()
    given.model.path, given.model_alias = str(model), {name}
    given.n_ctx, given.n_parallel, given.warmup, given.verbosity = 4096, 4, False, 0
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(given)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server
