"""What a recipe says of teachers that run here, looked at before anything is opened. Does not import torch."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mashbill.errors import MashbillError
from mashbill.teachers import hub
from mashbill.teachers.adapter_folder import AdapterFolder
from mashbill.teachers.folder import Kind, ModelFolder
from mashbill.train.recipe import Teacher

_KEYS = ("adapter", "revision", "trust_remote_code", "device", "device_map", "off_load", "engine")

_NOT_VLLM = {
    "adapter": ", and merge the adapter into its model",
    "gguf_file": ", and give a folder with safetensors",
    "device": ": vLLM takes the devices that it sees",
    "device_map": ": in `options`, `tensor_parallel_size` says how many devices there are",
    "off_load": ": the engine stays until this teacher is done",
    "align": ": a teacher with another tokenizer needs the engine transformers",
}


def model_path(spec: Teacher, base: Path, *, is_download_allowed: bool) -> Path | None:
    """Return the folder of a teacher's model; None if it would have to be downloaded and must not.

    Raises:
        MashbillError: Its name or revision is none, or it cannot be downloaded.
    """
    assert spec.model is not None, "the caller looked"
    name, folder = str(spec.model), base / spec.model
    if spec.revision is None:
        if not folder.is_dir() and hub.is_name(name):
            raise MashbillError(
                f"no model folder at `{folder}`",
                where=f"teachers.{spec.id}",
                help="correct the path; for a model of the hub, give the commit as `revision`",
            )
        return folder
    hub.require_pinned(name, spec.revision, where=f"teachers.{spec.id}")
    found = {"gguf_file": spec.gguf_file, "code": spec.trust_remote_code}
    if is_download_allowed:
        return hub.snapshot(name, spec.revision, teacher_id=spec.id, **found)
    return hub.kept(name, spec.revision, **found)


def mistakes(spec: Teacher, base: Path, kind: Kind) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with a teacher's keys and folders: the key, what it is, the way out."""
    if spec.model is None:
        for key in sorted(spec.model_fields_set.intersection(_KEYS)):
            yield key, "belongs to a local `model`, and this teacher has none", "leave it out"
        return
    yield from _contradictions(spec)
    if spec.engine == "vllm":
        yield from _beyond_vllm(spec, kind)
    key = "model" if spec.revision is None else "revision"
    try:
        path = model_path(spec, base, is_download_allowed=False)
        if path is not None:
            key, folder = "model", ModelFolder(path, spec.gguf_file, is_trusted=spec.trust_remote_code)
            if wrong := folder.wrong_head(kind):
                yield key, f"holds a {wrong}, but the student is a {kind}", "use a model that is one"
        if spec.adapter is not None:
            key = "adapter"
            adapter = AdapterFolder(base / spec.adapter)
            adapter.require_base(str(spec.model), kind, teacher_id=spec.id)
    except MashbillError as error:
        yield key, error.what + (f": {error.why}" if error.why else ""), error.help


def _contradictions(spec: Teacher) -> Iterator[tuple[str, str, str]]:
    if spec.trust_remote_code and spec.revision is None:
        what = "needs `revision`, which pins the code that would run"
        yield "trust_remote_code", what, "name the model as on the hub, with the commit whose code you have read"
    if spec.device_map is not None and "device" in spec.model_fields_set:
        yield "device", "is one device, and `device_map` gives several", "leave one of the two out"
    if spec.off_load == "cpu" and spec.device == "cpu" and spec.device_map is None:
        what = "moves nothing: the model is in the CPU's memory"
        yield "off_load", what, "use `drop` to have one model in memory at a time"
    if spec.off_load == "cpu" and spec.device_map is not None:
        yield "off_load", "cannot move a model that `device_map` spreads over devices", "use `drop`"


def _beyond_vllm(spec: Teacher, kind: Kind) -> Iterator[tuple[str, str, str]]:
    if kind == "classifier":
        yield "engine", "vllm gives tokens, but the student is a classifier", "leave `engine` out"
    if find_spec("vllm") is None:
        yield "engine", "the package `vllm` is not installed", "pip install 'mashbill[vllm]'"
    for key in sorted(spec.model_fields_set.intersection(_NOT_VLLM)):
        yield key, "is not for the engine vllm", f"leave it out{_NOT_VLLM[key]}"
