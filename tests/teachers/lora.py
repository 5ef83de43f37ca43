"""LoRA adapters as ``peft`` saves them, with random numbers that change what a model says."""

import copy
import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model


def make_adapter(folder: Path, model, *, seed: int, **options) -> Path:
    """Save a random adapter for a model, which stays as it is."""
    torch.manual_seed(seed)
    chosen = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": False}
    chosen |= {"task_type": "CAUSAL_LM"} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(copy.deepcopy(model), LoraConfig(**chosen))
        for name, parameter in tuned.named_parameters():
            if "modules_to_save" in name:
                parameter.data += torch.randn_like(parameter)
        tuned.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=None, init_lora_weights=True)
    return folder


def wrapped(model, folder: Path):
    """Return a copy of a model with an adapter beside its weights, by peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).eval()


def merged(model, folder: Path):
    """Return a copy of a model with an adapter added into its weights, by peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrapped(model, folder).merge_and_unload().eval()


def edit_json(file: Path, **changes) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
