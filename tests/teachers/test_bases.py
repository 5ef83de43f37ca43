"""How many models are in memory, and which of them has to go."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from mashbill.errors import MashbillError
from mashbill.teachers import LocalCausalLM, bases, opening
from mashbill.teachers.bases import Base, Bases
from mashbill.teachers.folder import ModelFolder
from mashbill.teachers.placing import Place


@pytest.fixture
def folders(llama, build, tmp_path):
    """Three models on disk."""
    n_tokens = len(llama.vocabulary)
    return [build.save(tmp_path / str(n), build.llama(n_tokens, seed=n), llama.tokenizer) for n in range(3)]


@pytest.fixture
def living(monkeypatch):
    """How many models were in memory whenever one had been opened."""
    seen, counts, real = [], [], bases.open_model

    def counted(*arguments, **options):
        gc.collect()
        counts.append(sum(one() is not None for one in seen) + 1)
        model = real(*arguments, **options)
        seen.append(weakref.ref(model))
        return model

    monkeypatch.setattr(bases, "open_model", counted)
    return counts


def ask(llama, folders, inputs, order, *, off_load, free=lambda place: 0):
    pool = Bases(free=free)
    teachers = [
        LocalCausalLM(str(n), folder, llama.vocabulary, bases=pool, off_load=off_load)
        for n, folder in enumerate(folders)
    ]
    for n in order:
        teachers[n].score(inputs)
    return pool


@pytest.mark.parametrize(
    ("off_load", "room", "in_memory"),
    [
        ("drop", True, [1, 1, 1, 1, 1, 1]),
        ("auto", False, [1, 1, 1, 1, 1, 1]),
        ("auto", True, [1, 2, 3]),
        ("never", False, [1, 2, 3]),
    ],
)
def test_how_many_models_are_in_memory(llama, causal_inputs, folders, living, off_load, room, in_memory):
    inputs = causal_inputs(llama.tokenizer)
    free = 10**9 if room else 0
    ask(llama, folders, inputs, [0, 1, 2, 0, 1, 2], off_load=off_load, free=lambda place: free)
    assert living == in_memory


def test_where_nobody_knows_how_much_room_there_is_there_is_none(llama, causal_inputs, folders, living):
    ask(llama, folders, causal_inputs(llama.tokenizer), [0, 1], off_load="auto", free=lambda place: None)
    assert living == [1, 1]


def test_the_one_that_has_waited_longest_goes_first_and_no_more_than_needed(llama, causal_inputs, folders, living):
    left = [0]  # the place fills with the third model, and one less makes room

    def free(place):
        return left.pop(0) if left else 10**9

    inputs = causal_inputs(llama.tokenizer)
    pool = Bases(free=lambda place: 10**9)
    teachers = [LocalCausalLM(str(n), folder, llama.vocabulary, bases=pool) for n, folder in enumerate(folders)]
    for n in (0, 1, 0):
        teachers[n].score(inputs)
    pool._free = free
    teachers[2].score(inputs)
    assert [base.folder.path.name for base in pool.open] == ["0", "2"]
    assert living == [1, 2, 2]


def test_enough_room_is_measured_by_the_weights(llama, folders):
    base = Base("AutoModelForCausalLM", ModelFolder(folders[0]), "bfloat16", Place())
    tensors = {name: p for name, p in llama.model.named_parameters() if name != "lm_head.weight"}
    assert base.n_bytes == 2 * sum(one.numel() for one in tensors.values())
    assert replace(base, dtype="float32").n_bytes == 2 * base.n_bytes


class Movable(torch.nn.Module):
    """A model that writes down where it is sent."""

    def __init__(self, journey):
        super().__init__()
        self.journey = journey

    def to(self, device):
        self.journey.append(device)
        return self


@pytest.mark.parametrize(
    ("off_load", "free_on_gpu", "free_in_memory", "journeys"),
    [
        ("cpu", 10**9, 10**9, {"a": ["cpu", "cuda:0"], "b": ["cpu"]}),
        ("auto", 0, 10**9, {"a": ["cpu", "cuda:0"], "b": ["cpu"]}),
        ("auto", 10**9, 0, {"a": [], "b": []}),
        ("never", 0, 10**9, {"a": [], "b": []}),
    ],
)
def test_a_model_on_a_device_waits_in_the_cpus_memory(
    llama, folders, monkeypatch, off_load, free_on_gpu, free_in_memory, journeys
):
    gone = {"a": [], "b": []}
    monkeypatch.setattr(bases, "open_model", lambda *a, teacher_id, **o: Movable(gone[teacher_id]))
    pool = Bases(free=lambda place: free_in_memory if place.kind == "cpu" else free_on_gpu)
    leases = {
        name: pool.lease(
            Base("AutoModelForCausalLM", ModelFolder(folder), "float32", Place("cuda:0")),
            teacher_id=name,
            off_load=off_load,
        )
        for name, folder in zip("ab", folders, strict=False)
    }
    for name in "aba":
        leases[name].model()
    assert gone == journeys
    assert pool.n_opened == 2


def test_a_full_memory_closes_what_would_have_waited_there(folders, monkeypatch):
    monkeypatch.setattr(bases, "open_model", lambda *a, **o: Movable([]))
    pool = Bases(free=lambda place: 0)
    for folder in folders[:2]:
        base = Base("AutoModelForCausalLM", ModelFolder(folder), "float32", Place("cuda:0"))
        pool.lease(base, teacher_id="t").model()
    assert [one.folder.path for one in pool.open] == [folders[1]]


def test_a_model_elsewhere_is_not_in_the_way(folders, monkeypatch):
    monkeypatch.setattr(bases, "open_model", lambda *a, **o: Movable([]))
    pool = Bases(free=lambda place: 0)
    for folder, device in zip(folders, ("cuda:0", "cuda:1", "cpu"), strict=True):
        base = Base("AutoModelForCausalLM", ModelFolder(folder), "float32", Place(device))
        pool.lease(base, teacher_id="t").model()
    assert len(pool.open) == 3


def test_teachers_on_one_model_agree_about_it(llama):
    pool = Bases()
    LocalCausalLM("a", llama.path, llama.vocabulary, bases=pool, off_load="drop")
    with pytest.raises(MashbillError, match=r"off_load=never of teacher `b` differs(.|\n)*the same `off_load`"):
        LocalCausalLM("b", llama.path, llama.vocabulary, bases=pool, off_load="never")


def test_what_is_in_the_cpus_memory_cannot_be_moved_there(llama):
    with pytest.raises(MashbillError, match="off_load=cpu moves nothing"):
        LocalCausalLM("a", llama.path, llama.vocabulary, off_load="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "warp", "meta", "cpu:"])
def test_a_device_that_is_not_there(llama, device):
    with pytest.raises(MashbillError, match=r"no device `.*` on this machine(.|\n)*there are: cpu") as caught:
        LocalCausalLM("a", llama.path, llama.vocabulary, device=device)
    assert caught.value.exit_code == 2


def test_a_device_map_reaches_the_library_and_changes_nothing(llama, causal_inputs, monkeypatch):
    inputs, given, real = causal_inputs(llama.tokenizer), [], opening._from_pretrained
    monkeypatch.setattr(opening, "_from_pretrained", lambda *a, **o: given.append(o.get("device_map")) or real(*a, **o))
    plain = LocalCausalLM("a", llama.path, llama.vocabulary).score(inputs)
    for device_map in ("auto", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}):
        teacher = LocalCausalLM("a", llama.path, llama.vocabulary, device_map=device_map)
        assert torch.equal(teacher.score(inputs).distribution.logprobs, plain.distribution.logprobs)
        assert given[-1] == device_map


def test_devices_of_a_map_must_be_there_too(llama):
    with pytest.raises(MashbillError, match="no device `cuda:7`"):
        LocalCausalLM("a", llama.path, llama.vocabulary, device_map={"model": 7, "lm_head": "cpu"})


def test_memory_is_measured():
    assert 2**20 < Place().free_bytes() < 2**50
