"""Whether changes fit the base, and whether they are what they seem; decided before anything is written."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge.changes import Change, Changes
from exporter.merge.tied import equal_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.run import Adapter
    from exporter.source.files import TensorFiles


def check_fit(
    changes: Changes, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, tuple[int, ...]], adapter: "Adapter"
) -> None:
    """MergeError where a change is of a weight the base does not have, or of another shape.

    An embedding or head that is replaced may have other rows than the base's: its vocabulary was resized.
    """
    for change in changes.by_weight.values():
        shape = base.get(change.weight) or (base.get(EMBEDDING) if change.weight == HEAD else None)
        found: tuple[int, ...] = ()
        if change.replaced_by is not None:
            found = shapes[change.replaced_by]
            resized = shape and change.weight in (EMBEDDING, HEAD) and found[1:] == shape[1:]
            shape = found if resized else shape
        if change.factors is not None and (not found or found == shape):
            a, b = shapes[change.factors.a], shapes[change.factors.b]
            found = (a[-1], b[0]) if change.factors.embedding else (b[0], a[-1])
        if found != shape:
            was = "does not have it" if shape is None else f"has {_by(shape)} there"
            raise MergeError(
                f"{adapter.weights}: the adapter changes {change.weight} as {_by(found)}, the base model {was}. It was "
                f"trained on another base: adapter_config.json names {adapter.config.get('base_model_name_or_path')}. "
                "Give that one with --base."
            )


def check_effect(changes: Changes, adapter: "TensorFiles", path: "Path") -> None:
    """MergeError where every product is zero and nothing is replaced; reads factors up to the first that are not."""
    if not any(_moves(change, adapter) for change in changes.by_weight.values()):
        raise MergeError(
            f"{path}: the adapter changes nothing of the exported model: all of its lora_B are zero, as before the "
            "first step, or its lora_alpha is. Check that the run was trained, and (DeepSpeed ZeRO-3, FSDP) that its "
            "parameters were gathered when it was saved; zero_to_fp32.py gathers them from a checkpoint."
            if changes.by_weight
            else f"{path}: the adapter changes nothing of the exported model: its {changes.tensors} tensors are of "
            f"parts that are left out (the first: {next(iter(changes.left_out), 'none')}). Check the run."
        )


def _moves(change: Change, adapter: "TensorFiles") -> bool:
    """Whether training replaced a weight, or added something to it that is not zero because a factor is."""
    if change.replaced_by != change.origin:
        return True
    return (
        change.factors is not None
        and change.factors.scale != 0
        and all(bool(adapter.read(name, (slice(None),)).any()) for name in (change.factors.a, change.factors.b))
    )


def check_copies(changes: Changes, adapter: "TensorFiles", path: "Path") -> None:
    """MergeError where what replaces a weight is saved twice, and differently."""
    for change in changes.by_weight.values():
        one, other = change.replaced_by, change.copy
        if one is not None and other is not None and not equal_tensors(one, other, adapter):
            raise MergeError(
                f"{path}: {one} and {other} are two different tensors for {change.weight}. Save the adapter again."
            )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
