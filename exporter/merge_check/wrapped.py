"""PEFT's model of one module with an adapter's configuration, and the file's tensors in it."""

from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from exporter.errors import MergeError
from exporter.merge.skeleton import NAME, PREFIX, WITNESS, around, nothing, saved, tree_of

if TYPE_CHECKING:
    import torch

    from exporter.run import Adapter

Weights = Mapping[str, "torch.Tensor"]
NONE = (
    "eva_config", "exclude_modules", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "modules_to_save", "target_modules", "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Fields of LoraConfig that say which modules are trained, or how training began: here there is one module."""


def config_of(adapter: "Adapter") -> Any:  # noqa: ANN401  (PEFT has no types)
    """PEFT's configuration of an adapter, for any one module."""
    from peft import LoraConfig  # noqa: PLC0415  (seconds to import)

    known = {field.name for field in fields(LoraConfig)} - {"peft_type", *NONE}
    config = LoraConfig(**{name: value for name, value in adapter.config.items() if name in known})
    config.bias, config.init_lora_weights, config.ensure_weight_tying = "none", True, False
    config.inference_mode = True
    return config


def wrapped(module: str, layer: "torch.nn.Module", config: Any, *, witness: bool = False) -> Any:  # noqa: ANN401
    """PEFT's model of a tree that holds one module under its name, and beside it one to be targeted, if asked for.

    The one beside it has plain LoRA: it is there only because PEFT takes no adapter without a target.
    """
    import peft  # noqa: PLC0415

    tree = tree_of(module, layer)
    config = copy(config)
    if witness:
        config.use_dora = config.lora_bias = False
        tree.add_module(WITNESS, around(WITNESS, nothing((1, 1)).clone()))
    return peft.PeftModel(tree, config, NAME).eval()


def loaded(model: Any, module: str, tensors: Weights, *, exactly: bool = True) -> Any:  # noqa: ANN401
    """PEFT's layer with the file's tensors in it; MergeError where they are not those that PEFT has for it."""
    from peft import set_peft_model_state_dict  # noqa: PLC0415

    state = {f"{PREFIX}{module}.{end}": tensor for end, tensor in tensors.items()}
    expected = set(saved(model, module))
    if exactly and expected != set(state):
        raise MergeError(f"PEFT's layer of {module} has {', '.join(sorted(expected))}, the file {', '.join(state)}.")
    set_peft_model_state_dict(model, state, NAME)
    return model.get_submodule(PREFIX + module)
