"""LoRA adapters on one open model, of which one speaks at a time, or none."""

import warnings
from typing import Any

from mashbill.errors import MashbillError
from mashbill.teachers.adapter_folder import WEIGHTS, AdapterFolder


class Adapters:
    """The adapters that are loaded beside a model. They lie inside its layers; its own weights stay as they are.

    Args:
        model: The open model. It is called as before; what it answers depends on who was selected last.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._peft: Any = None  # wraps the model from the first adapter on
        self._selected: str | None = None

    def select(self, adapter: AdapterFolder | None, *, teacher_id: str) -> None:
        """Let an adapter speak, which is loaded at its first turn; None lets the model speak alone.

        Raises:
            MashbillError: The adapter does not fit the model, which cannot be used any more.
        """
        name = None if adapter is None else adapter.name
        if name == self._selected:
            return
        if adapter is not None and (self._peft is None or name not in self._peft.peft_config):
            self._load(adapter, teacher_id)
        peft: Any = self._peft
        if adapter is None:
            peft.base_model.disable_adapter_layers()
        else:
            peft.base_model.enable_adapter_layers()
            peft.set_adapter(name, inference_mode=True)
        self._selected = name

    def _load(self, adapter: AdapterFolder, teacher_id: str) -> None:
        from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors.torch import load_file

        try:
            given = load_file(adapter.path / WEIGHTS)
            config = LoraConfig.from_pretrained(str(adapter.path))
            config.inference_mode = True
            with warnings.catch_warnings():
                # peft asks transformers in a form that has a newer one.
                warnings.simplefilter("ignore", FutureWarning)
                # Copies of a tied head matter to those who merge adapters; here they only speak.
                warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings")
                if self._peft is None:
                    self._peft = PeftModel(self.model, config, adapter_name=adapter.name)
                else:
                    self._peft.add_adapter(adapter.name, config)
                wanted = get_peft_model_state_dict(self._peft, adapter_name=adapter.name, save_embedding_layers=False)
                given = {name: one for name, one in given.items() if name in wanted or not self._is_own(one)}
                odd = _differences({k: v.shape for k, v in wanted.items()}, {k: v.shape for k, v in given.items()})
                if not odd:
                    set_peft_model_state_dict(self._peft, given, adapter_name=adapter.name)
        except Exception as error:  # peft raises whatever its parts raise
            raise _misfit(adapter, teacher_id, f"{type(error).__name__}: {error}") from error
        if odd:
            raise _misfit(adapter, teacher_id, odd)
        self.model.eval().requires_grad_(requires_grad=False)

    def _is_own(self, tensor: Any) -> bool:
        """Say whether this is a copy of the model's embeddings, which peft saves with adapters that touch them."""
        each = (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        weights = [one.weight for one in each if one is not None]
        return any(tensor.shape == one.shape and bool((tensor.to(one) == one).all()) for one in weights)


def _differences(wanted: dict[str, Any], given: dict[str, Any]) -> str:
    """Say in what an adapter's tensors are not those that the model needs of it; nothing is left at its beginning."""
    shapes = [name for name in sorted(wanted.keys() & given.keys()) if wanted[name] != given[name]]
    if shapes:
        first = shapes[0]
        return f"`{first}` is {list(given[first])}, and the model takes {list(wanted[first])}"
    if lacking := sorted(wanted.keys() - given.keys()):
        return f"{len(lacking)} tensors are missing, first `{lacking[0]}`"
    if foreign := sorted(given.keys() - wanted.keys()):
        return f"{len(foreign)} tensors have no place in the model, first `{foreign[0]}`"
    return ""


def _misfit(adapter: AdapterFolder, teacher_id: str, why: str) -> MashbillError:
    return MashbillError(
        f"the adapter of teacher `{teacher_id}` does not fit its model",
        where=f"teachers.{teacher_id} ({adapter.path})",
        why=why[:300],
        help="give it with the `model` that it was trained on",
    )
