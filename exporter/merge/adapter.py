"""An adapter of whatever method, read into the layer that it lays over the base."""

from dataclasses import replace
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge.changes import read_changes
from exporter.merge.fields import check_fields
from exporter.merge.layer import Layer
from exporter.merge.lora import KINDS, by_rows, check_config, check_start, check_variant, defaults
from exporter.merge.methods import WIDEST
from exporter.merge.values import Change, Changes, Given, Whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from exporter.merge.peft_layers import PeftModules
    from exporter.source.files import TensorFiles


def read_layer(given: Given, tensors: "TensorFiles", weight: float) -> Layer:
    """An adapter as a layer: by rows for LoRA and trained tokens, else by PEFT's own modules.

    MergeError for what cannot be merged, by name.
    """
    check_fields(given.config, given.path)
    if by_rows(given.config):
        check_config(given.config, given.path)
        return Layer(tensors, read_changes(given), weight, said=defaults(given.config))
    if given.config.get("peft_type") in KINDS:
        check_start(given.config, given.path)
        check_variant(given.config, given.path)
    opened, left_out, others = _open(given, tensors)
    rest = read_changes(replace(given, shapes={name: given.shapes[name] for name in others}))
    changes = _of_modules(opened, given)
    saved = {name: change for name, change in rest.by_weight.items() if name in changes}
    both = sorted(name for name, change in saved.items() if change.replaced_by != change.origin)
    if both:
        raise MergeError(
            f"{given.path}: {both[0]} is changed by {opened.method} and saved as a whole too: which of the two "
            "training ended with is not known. Save the adapter again without that module in modules_to_save."
        )
    # What PEFT saves of the layer below the method's is what the method was trained over.
    over = {name: replace(change, whole=changes[name].whole) for name, change in saved.items()}
    every = Changes({**changes, **rest.by_weight, **over}, len(given.shapes), (*left_out, *rest.left_out))
    return Layer(tensors, every, weight, opened)


def _open(given: Given, tensors: "TensorFiles") -> tuple["PeftModules", tuple[str, ...], tuple[str, ...]]:
    """PEFT's modules of an adapter, its tensors of parts that are left out, and those that are not the method's."""
    from exporter.merge.peft_layers import Module, Stored, open_modules, share_out  # noqa: PLC0415  (imports peft)

    def whole(name: str) -> "torch.Tensor":
        return tensors.take(name, tuple(slice(None) for _ in given.shapes[name]))

    stored = Stored(given.config, given.shapes, whole, given.path)
    parts = share_out(stored)
    weights = {module: given.spell(f"{module}.weight") for module in parts.modules}
    out = [module for module, weight in weights.items() if weight is None]
    if out and str(given.config.get("peft_type")) in WIDEST:
        raise MergeError(
            f"{given.path}: {out[0]} is of a part that is not exported, and the size of what all modules share may "
            "follow from it. Merge the adapter with PEFT first."
        )
    left_out = tuple(name for module in out for name in parts.modules[module])
    kept = {name: shape for name, shape in given.shapes.items() if name not in {*left_out, *parts.others}}
    # A tied base stores no head; one that is trained alone begins as the embedding.
    shapes = {HEAD: given.base[EMBEDDING]} | dict(given.base) if EMBEDDING in given.base else given.base
    base = {
        module: Module(
            shapes[weight], f"{weight.removesuffix('weight')}bias" in given.base, given.turned(f"{module}.weight")
        )
        for module, weight in weights.items()
        if weight is not None and weight in shapes
    }
    return open_modules(replace(stored, shapes=kept), base), left_out, parts.others


def _of_modules(opened: "PeftModules", given: Given) -> dict[str, Change]:
    """The changes that PEFT makes of whole modules."""
    changes = {}
    for module in opened.modules:
        weight = str(given.spell(f"{module}.weight"))
        bias = f"{weight.removesuffix('weight')}bias"
        whole = Whole(module, weight, bias if opened.changes_bias and bias in given.base else None)
        changes[weight] = Change(weight, whole=whole)
        if whole.bias is not None:
            changes[whole.bias] = Change(whole.bias, whole=whole)
    return changes


def check_together(layers: "Sequence[Layer]", names: "Sequence[str]") -> None:
    """MergeError where adapters do not add up: one replaces or multiplies what another changes, or has a factor.

    ``names`` are what messages call them: a file, or the option that gave it.
    """
    for k, (layer, name) in enumerate(zip(layers, names, strict=True)):
        fixed = sorted(weight for weight, change in layer.changes.by_weight.items() if not layer.adds(change))
        if fixed and layer.weight != 1:
            raise MergeError(
                f"{name}: has the factor {layer.weight:g}, but it replaces or multiplies {fixed[0]}"
                f"{f' and {len(fixed) - 1} more' if fixed[1:] else ''}, of which there is no half or double. "
                "Give it without a factor, and alone where another adapter changes the same weights."
            )
        for j, (other, its) in enumerate(zip(layers, names, strict=True)):
            both = [weight for weight in fixed if weight in other.changes.by_weight]
            if both and j != k:
                raise MergeError(
                    f"{name}: replaces or multiplies {both[0]}, which {its} changes too: the two do not add up, and "
                    "the order would decide. Give only one of them, or merge them with PEFT first."
                )
