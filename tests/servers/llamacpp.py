"""llama.cpp's own server in a process of its own, with float32 wherever it can be told to use it."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PATIENCE = 120.0


@contextmanager
def serving(model: Path, *, name: str) -> Iterator[str]:
    """Serve a model on a port of this machine."""
    # Apart: the engine changes how its whole process gets memory.
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(model, name, theirs), daemon=True)
    server.start()
    try:
        if not ours.poll(_PATIENCE):
            raise RuntimeError(f"llama.cpp did not serve {model} within {_PATIENCE:.0f} s")
        yield ours.recv()
    finally:
        server.kill()
        server.join()


def _serve(model: Path, name: str, address: Connection) -> None:
    import xllamacpp

    given: Any = xllamacpp.CommonParams()
    given.model.path, given.model_alias = str(model), {name}
    given.n_ctx, given.n_parallel, given.warmup, given.verbosity = 4096, 4, False, 0
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    given.cache_type_k = given.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(given)
    address.send(f"{server.listening_address}/v1")
    address.poll(None)  # until it is killed, or its parent is gone
