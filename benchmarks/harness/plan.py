"""The runs that the page of measurements is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A run of a benchmark.

    Attributes:
        name: Of its record, a file.
        section: Of the page.
        script: The benchmark.
        words: Its options.
        threads: 1, or None for every core.
        device: Where it makes sense.
    """

    name: str
    section: str
    words: tuple[str, ...]
    script: str = "loss.py"
    threads: int | None = None
    device: str = "cpu"


def _loss(name: str, section: str, text: str, threads: int | None = None, device: str = "cpu") -> Job:
    return Job(name, section, tuple(text.split()), threads=threads, device=device)


_LOGITS = "--form logits --teachers 4"
_HIDDEN = "--form hidden --width 512 --teacher-width 1024"
_TOPK = "--form topk --rows 2048 --entries 32000 --teachers 4 --k 64"
_BUSY = "--competitor --no-peak --only mashbill;naive"
_ADAPTIVE = "--mode adaptive --rows 2048 --form logits --form hidden --form topk"
_BFLOAT16 = "--dtype bfloat16"
_GPU_HIDDEN = "--form hidden --rows 8192 --entries 151936 --width 2048 --teacher-width 4096"

_CPU = (
    _loss("logits-32k-float32", "logits", f"{_LOGITS} --rows 2048 --entries 32000"),
    _loss("logits-32k-bfloat16", "logits", f"{_LOGITS} --rows 2048 --entries 32000 {_BFLOAT16}"),
    _loss("logits-152k-float32", "logits", f"{_LOGITS} --rows 512 --entries 151936"),
    _loss("logits-152k-bfloat16", "logits", f"{_LOGITS} --rows 512 --entries 151936 {_BFLOAT16}"),
    _loss("logits-32k-js", "logits", f"{_LOGITS} --rows 2048 --entries 32000 --divergence js --no-peak"),
    # On one thread only those whose number of threads is a question: ours, and what ours is held against.
    _loss(
        "logits-32k-float32-one",
        "logits",
        f"{_LOGITS} --rows 2048 --entries 32000 --no-peak --only mashbill;naive",
        threads=1,
    ),
    _loss("hidden-32k-float32", "hidden", f"{_HIDDEN} --rows 1024 --entries 32000"),
    _loss("hidden-32k-bfloat16", "hidden", f"{_HIDDEN} --rows 1024 --entries 32000 {_BFLOAT16}"),
    _loss("hidden-152k-float32", "hidden", f"{_HIDDEN} --rows 512 --entries 151936 --repeats 5"),
    _loss("hidden-152k-bfloat16", "hidden", f"{_HIDDEN} --rows 512 --entries 151936 --repeats 5 {_BFLOAT16}"),
    _loss("hidden-32k-float32-single", "hidden", f"{_HIDDEN} --rows 1024 --entries 32000 --teachers 1 --no-peak"),
    *(
        _loss(
            f"hidden-32k-{dtype}-one",
            "hidden",
            f"{_HIDDEN} --rows 1024 --entries 32000 --dtype {dtype} --no-peak --only mashbill;matrix",
            threads=1,
        )
        for dtype in ("float32", "bfloat16")
    ),
    _loss("topk-32k-float32", "topk", _TOPK),
    _loss("topk-32k-bfloat16", "topk", f"{_TOPK} {_BFLOAT16}"),
    _loss("stored-32k-float32", "topk", "--form stored --rows 1024 --entries 32000"),
    _loss("busy-logits-32k", "busy", f"{_LOGITS} --rows 2048 --entries 32000 {_BUSY}"),
    _loss("busy-hidden-32k", "busy", f"{_HIDDEN} --rows 1024 --entries 32000 {_BUSY}"),
    _loss("busy-topk-32k", "busy", f"{_TOPK} {_BUSY}"),
    _loss("growth", "growth", "--mode growth --form logits --form hidden --form topk --repeats 7"),
    _loss("adaptive-float32", "adaptive", f"{_ADAPTIVE} --repeats 25"),
    _loss("adaptive-reverse", "adaptive", f"{_ADAPTIVE} --repeats 25 --divergence reverse_kl"),
    _loss("adaptive-bfloat16", "adaptive", f"{_ADAPTIVE} --repeats 25 {_BFLOAT16}"),
    _loss("adaptive-chunked", "adaptive", f"{_ADAPTIVE} --repeats 9 --impl chunked"),
    Job("step", "step", (), script="step.py"),
)

_GPU = (
    _loss("gpu-logits-152k", "gpu", f"{_LOGITS} --rows 8192 --entries 151936 {_BFLOAT16}", device="cuda"),
    _loss(
        "gpu-logits-152k-single",
        "gpu",
        f"--form logits --teachers 1 --rows 8192 --entries 151936 {_BFLOAT16}",
        device="cuda",
    ),
    _loss("gpu-logits-152k-float32", "gpu", f"{_LOGITS} --rows 2048 --entries 151936", device="cuda"),
    _loss("gpu-logits-32k", "gpu", f"{_LOGITS} --rows 8192 --entries 32000 {_BFLOAT16}", device="cuda"),
    _loss("gpu-logits-32k-js", "gpu", f"{_LOGITS} --rows 8192 --entries 32000 --divergence js", device="cuda"),
    _loss("gpu-hidden-152k", "gpu", f"{_GPU_HIDDEN} {_BFLOAT16}", device="cuda"),
    _loss("gpu-topk-152k", "gpu", f"--form topk --rows 8192 --entries 151936 {_BFLOAT16}", device="cuda"),
    _loss("gpu-topk-32k", "gpu", _TOPK, device="cuda"),
    _loss("gpu-adaptive", "gpu", f"{_ADAPTIVE} --rows 4096 {_BFLOAT16}", device="cuda"),
    Job("gpu-step", "gpu", (), script="step.py", device="cuda"),
)

JOBS = (*_CPU, *_GPU)
