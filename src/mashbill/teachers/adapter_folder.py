"""A folder with a LoRA adapter, looked at before anything in it is opened.

Teachers that are adapters of one model share it in memory. So an adapter must leave the model's own weights as they
are: what would change them is refused. This module does not import torch.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mashbill.errors import MashbillError
from mashbill.teachers.folder import Kind, digest_of, read_json, refuse_pickles
from mashbill.teachers.hub import is_name

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TASKS: dict[Kind, str] = {"causal_lm": "CAUSAL_LM", "classifier": "SEQ_CLS"}
# Settings that say where an adapter sits and how large it is. What else is switched on may change the model itself,
# name code to import, or be newer than the peft that is installed, which would leave it out with a warning.
# fmt: off
_PLAIN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters",
    "task_type", "trainable_token_indices", "use_dora", "use_rslora",
})
# fmt: on
# Beginnings that leave the model as it is; others (pissa, olora, corda, loftq) move a part of it into the adapter.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA adapter as ``peft`` saves it.

    Attributes:
        path: The folder.

    Raises:
        MashbillError: A file is missing, it is no LoRA, or one that other teachers' answers would suffer from.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise MashbillError(
                f"no adapter folder at `{self.path}`", help=f"give a folder with {CONFIG} and {WEIGHTS}"
            )
        if not (self.path / CONFIG).is_file():
            raise MashbillError(
                f"no {CONFIG} in `{self.path}`",
                why="it is no adapter" + (" but a whole model" if (self.path / "config.json").is_file() else ""),
                help="a whole model is a teacher by itself: give it as `model`, without `adapter`",
            )
        if not (self.path / WEIGHTS).is_file():
            self._refuse_missing_weights()
        if find_spec("peft") is None:
            raise MashbillError("an adapter needs the package `peft`", help="pip install 'mashbill[peft]'")
        self._require_plain()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of its configuration."""
        return read_json(self.path / CONFIG)

    @cached_property
    def pins(self) -> dict[str, str]:
        """What identifies the adapter: the sha256 of its weights and of its configuration."""
        return {
            "adapter": digest_of((self.path / WEIGHTS,)),
            "adapter_config": digest_of((self.path / CONFIG,)),
        }

    @cached_property
    def name(self) -> str:
        """A name that only this adapter has."""
        return f"{self.pins['adapter'][:16]}{self.pins['adapter_config'][:16]}"

    def require_base(self, base: str, kind: Kind, *, teacher_id: str) -> None:
        """Refuse an adapter that says of itself that it belongs to another model or another task.

        A folder's name says nothing, so only names of the hub are compared; the rest is seen when weights are loaded.

        Raises:
            MashbillError: It says so.
        """
        made_for, task = str(self.config.get("base_model_name_or_path") or ""), self.config.get("task_type")
        if is_name(made_for) and is_name(base) and made_for != base:
            raise MashbillError(
                f"the adapter of teacher `{teacher_id}` is one for `{made_for}`, and its model is `{base}`",
                where=f"teachers.{teacher_id} ({self.path / CONFIG})",
                why="its numbers would be added to weights that they were not trained with",
                help=f"give `model: {made_for}`, or another adapter",
            )
        if task is not None and task != TASKS[kind]:
            raise MashbillError(
                f"the adapter of teacher `{teacher_id}` was trained for {task}, and a {kind} is needed",
                where=f"teachers.{teacher_id} ({self.path / CONFIG})",
                help=f"give an adapter with task_type {TASKS[kind]}",
            )

    def _require_plain(self) -> None:
        config = self.config
        kind = config.get("peft_type")
        if kind != "LORA":
            raise MashbillError(
                f"`{self.path}` holds an adapter of the type {kind}",
                why="teachers on a shared model are LoRA adapters, which can be switched without a trace",
                help="merge it into its model with peft's merge_and_unload(), and give that as `model`",
            )
        odd = sorted(name for name, value in config.items() if value and name not in _PLAIN)
        if config.get("bias", "none") != "none":
            odd.append(f"bias: {config['bias']}")
        if config.get("init_lora_weights", True) not in _BEGINNINGS:
            odd.append(f"init_lora_weights: {config['init_lora_weights']}")
        if odd:
            raise MashbillError(
                f"the adapter in `{self.path}` changes more than it adds: {', '.join(odd)}",
                why="other teachers share the model, and would answer with its changes",
                help="merge it into its model with peft's merge_and_unload(), and give that as `model`",
            )

    def _refuse_missing_weights(self) -> None:
        refuse_pickles(self.path, loader="PeftModel")
        raise MashbillError(
            f"no {WEIGHTS} in `{self.path}`", help="save the adapter again with peft's save_pretrained()"
        )
