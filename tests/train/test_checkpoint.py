"""Checkpoints: exact, whole, and checked byte by byte."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from mashbill.errors import CorruptionError
from mashbill.train import checkpoint


class Small(nn.Module):
    """Tied weights, a frozen parameter, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def trained(seed: int, steps: int) -> tuple[Small, torch.optim.AdamW]:
    torch.manual_seed(seed)
    module = Small()
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1, fused=True)
    move(module, optimiser, steps)
    return module, optimiser


def move(module: Small, optimiser: torch.optim.AdamW, steps: int) -> None:
    for step in range(steps):
        optimiser.zero_grad()
        module(torch.full((1, 3), float(step))).square().sum().backward()
        optimiser.step()


def take(module: Small, optimiser: torch.optim.AdamW, step: int) -> checkpoint.Checkpoint:
    return checkpoint.capture(module, optimiser, step=step, state={"note": 0.1 + 0.2})


def test_a_restored_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    module, optimiser = trained(0, 3)
    checkpoint.write(tmp_path, take(module, optimiser, 3))
    move(module, optimiser, 4)
    other, its_optimiser = trained(1, 0)
    found = checkpoint.newest_valid(tmp_path)
    assert found is not None
    assert (found.step, found.state["note"]) == (3, 0.1 + 0.2)
    checkpoint.restore_model(found, other)
    checkpoint.restore_optimiser(found, other, its_optimiser)
    move(other, its_optimiser, 4)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_only_what_training_changes_is_kept() -> None:
    taken = take(*trained(0, 1), 1)
    assert sorted(taken.model) == ["count", "first.bias", "first.weight"]
    assert sorted({name.split("/")[0] for name in taken.optimiser}) == ["exp_avg", "exp_avg_sq", "step"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_every_flipped_byte_is_noticed_and_the_one_before_is_used(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, optimiser = trained(0, 2)
    checkpoint.write(tmp_path, take(module, optimiser, 1))
    place = checkpoint.write(tmp_path, take(module, optimiser, 2))
    whole = (place / name).read_bytes()
    generator = torch.Generator().manual_seed(0)
    for at in torch.randint(len(whole), (40,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        (place / name).write_bytes(damaged)
        found = checkpoint.newest_valid(tmp_path)
        if name == "manifest.json" and found is not None and found.step == 2:
            # A flip in white space or in an unused figure changes nothing that is believed.
            continue
        assert found is not None
        assert found.step == 1, f"byte {at} of {name}"
        assert "step-00000002" in caplog.text
        assert name in caplog.text
    (place / name).write_bytes(whole)
    assert checkpoint.newest_valid(tmp_path).step == 2  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "swapped"])
def test_other_damage_is_noticed(damage: str, tmp_path: Path) -> None:
    module, optimiser = trained(0, 2)
    first = checkpoint.write(tmp_path, take(module, optimiser, 1))
    move(module, optimiser, 1)
    place = checkpoint.write(tmp_path, take(module, optimiser, 2))
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
        whole = (place / name).read_bytes()
        if damage == "truncated":
            (place / name).write_bytes(whole[: len(whole) // 2])
        elif damage == "empty":
            (place / name).write_bytes(b"")
        elif damage == "missing":
            (place / name).unlink()
        else:
            shutil.copy(first / name, place / name)
        assert checkpoint.newest_valid(tmp_path).step == 1  # pyright: ignore[reportOptionalMemberAccess]
        (place / name).write_bytes(whole)


def test_no_valid_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest_valid(tmp_path) is None
    (tmp_path / "step-00000001").mkdir()
    assert checkpoint.newest_valid(tmp_path) is None


def test_half_written_ones_are_not_looked_at_and_are_cleared(tmp_path: Path) -> None:
    module, optimiser = trained(0, 1)
    for step in (1, 2, 3, 4):
        checkpoint.write(tmp_path, take(module, optimiser, step))
    shutil.copytree(tmp_path / "step-00000004", tmp_path / ".writing-step-00000009")
    assert checkpoint.newest_valid(tmp_path).step == 4  # pyright: ignore[reportOptionalMemberAccess]
    checkpoint.prune(tmp_path, keep=2, also=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-00000001", "step-00000003", "step-00000004"]


def test_writing_again_replaces(tmp_path: Path) -> None:
    module, optimiser = trained(0, 1)
    place = checkpoint.write(tmp_path, take(module, optimiser, 1))
    (place / "model.safetensors").write_bytes(b"damaged")
    checkpoint.write(tmp_path, take(module, optimiser, 1))
    assert checkpoint.newest_valid(tmp_path).step == 1  # pyright: ignore[reportOptionalMemberAccess]
    assert [each.name for each in tmp_path.iterdir()] == ["step-00000001"]


def test_another_model_is_refused() -> None:
    taken = take(*trained(0, 1), 1)
    with pytest.raises(CorruptionError, match=r"3 tensors differ, first `bias`|tensors differ"):
        checkpoint.restore_model(taken, nn.Linear(4, 4))


def test_state_is_plain_json(tmp_path: Path) -> None:
    place = checkpoint.write(tmp_path, take(*trained(0, 1), 1))
    assert json.loads((place / "state.json").read_text(encoding="utf-8")) == {"step": 1, "note": 0.1 + 0.2}
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write(tmp_path, checkpoint.Checkpoint(2, {}, {}, {"loss": float("nan")}))
