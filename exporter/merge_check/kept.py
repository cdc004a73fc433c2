"""What PEFT keeps of a module that is not LoRA's: one saved whole, one of which some tokens were trained, a bias."""

from typing import TYPE_CHECKING

from exporter.merge.skeleton import WITNESS, around, nothing
from exporter.merge_check.laid import Laid, module_of
from exporter.merge_check.wrapped import config_of, loaded, wrapped

if TYPE_CHECKING:
    import torch

    from exporter.merge.values import Change


def kept(laid: Laid, change: "Change", before: "torch.Tensor") -> "torch.Tensor":
    """What PEFT keeps of a module that was saved whole, or of which some tokens were trained: its wrapper's weight.

    Where the vocabulary was resized before training, PEFT is given the module with as many rows, and loads what is in
    them from the file.
    """
    config = config_of(laid.adapter)
    config.target_modules = {WITNESS}
    if change.tokens is not None:
        module = module_of(laid, change.tokens.rows, change.weight)
        config.trainable_token_indices = {module: list(change.tokens.ids)}
        names = {"token_adapter.trainable_tokens_delta": change.tokens.rows}
        below = "token_adapter.base_layer.weight"
    elif change.weight.endswith("bias"):
        return _bias(laid, change.weight, str(change.replaced_by), before)
    else:
        module = module_of(laid, str(change.replaced_by), change.weight)
        config.modules_to_save = [module]
        names, below = {}, "weight"
    if change.replaced_by is not None:
        names[below] = change.replaced_by
    tensors = {end: laid.tensor(name) for end, name in names.items()}
    model = wrapped(module, around(module, _resized(before, len(tensors.get(below, before)))), config, witness=True)
    loaded(model, module, tensors, exactly=False)
    done = model.merge_and_unload().get_submodule(module)
    finished: torch.Tensor = done.weight.detach()
    return finished


def _resized(matrix: "torch.Tensor", rows: int) -> "torch.Tensor":
    """A copy with so many rows, zeros where there were none."""
    import torch  # noqa: PLC0415  (slow to import)

    resized = torch.zeros(rows, *matrix.shape[1:], dtype=matrix.dtype)
    resized[: len(matrix)] = matrix[:rows]
    return resized


def _bias(laid: Laid, bias: str, stored: str, before: "torch.Tensor") -> "torch.Tensor":
    """A bias as PEFT loads it: into the module itself, a copy that it saves, or a layer around it, by its name there.

    The weight beside it is nothing: no bias depends on one.
    """
    module = module_of(laid, stored, bias)
    config = config_of(laid.adapter)
    config.use_dora = config.lora_bias = False
    inner = ".base_layer." in stored
    config.target_modules = {module if inner else WITNESS}
    if not inner and laid.adapter.config.get("bias", "none") == "none":
        config.modules_to_save = [module]
    no_weight = nothing((len(before), 1)).clone()
    model = wrapped(module, around(module, no_weight, before.clone()), config, witness=not inner)
    tensors = {"base_layer.bias": laid.tensor(stored)} if inner else {"bias": laid.tensor(stored), "weight": no_weight}
    loaded(model, module, tensors, exactly=False)
    finished: torch.Tensor = model.merge_and_unload().get_submodule(module).bias.detach()
    return finished
