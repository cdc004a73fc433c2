"""Whether changes fit the base, and whether they are what they seem; decided before anything is written."""

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, cast

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError, WeightError
from exporter.merge.fields import other_base
from exporter.merge.tied import ROWS, equal_tensors
from exporter.merge.values import Added, Change, Changes, Factors

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.merge.layer import Layer
    from exporter.run import Adapter
    from exporter.source.files import TensorFiles


PARTLY = ("layers_to_transform", "exclude_modules", "layer_replication", "target_parameters")
"""Fields with which a module may rightly be trained in some layers only."""


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
            found = _product(change.factors, shapes)
        if change.added is not None:
            found = shapes[change.added.vector]
            _check_has_bias(change.weight, change.added, base, adapter)
        if change.tokens is not None or change.whole is not None:
            found = shape or ()  # compared with the base when they were read
        if found != shape:
            was = "does not have it" if shape is None else f"has {_by(shape)} there"
            raise MergeError(
                f"{adapter.weights}: the adapter changes {change.weight} as {_by(found)}, the base model {was}. "
                f"{other_base(adapter.config)}"
            )


def _check_has_bias(bias: str, added: Added, base: Mapping[str, tuple[int, ...]], adapter: "Adapter") -> None:
    """MergeError for a bias that lora_bias trained beside a weight of the base that has none."""
    if bias not in base and f"{bias.removesuffix('bias')}weight" in {*base, HEAD}:
        raise MergeError(
            f"{adapter.weights}: {added.vector} was trained as lora_bias asks, and {bias.removesuffix('.bias')} of the "
            "base has no bias to add it to. PEFT cannot merge this either: it runs the adapter unmerged alone. Train "
            "it again with lora_bias false, or with target_modules that have a bias."
        )


def _product(factors: Factors, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Rows and columns of what is added; DoRA's lengths behind them where they are not as many."""
    a, b = shapes[factors.a], shapes[factors.b]
    rows, columns = (a[1], b[0]) if factors.turned else (b[0], a[1])
    if factors.magnitude is not None and prod(shapes[factors.magnitude]) != (columns if factors.turned else rows):
        return (rows, columns, *shapes[factors.magnitude])
    return (factors.expert.rows if factors.expert else rows, columns)


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


def check_layers(changes: Changes, base: Mapping[str, tuple[int, ...]], adapter: "Adapter") -> None:
    """MergeError where a module was trained in some layers, or for some experts, and the config says in all.

    The config says so where it lists modules by their names alone.
    """
    config = adapter.config
    if not isinstance(config.get("target_modules"), list) or any(config.get(field) for field in PARTLY):
        return
    _check_listed(changes, base, adapter)
    made = [change for change in changes.by_weight.values() if change.factors is not None or change.whole is not None]
    trained = {change.weight for change in made}
    kinds = {_kind(weight) for weight in trained}
    # PEFT lays nothing over a module that modules_to_save names, alone or within another, and saves it whole.
    saved = {weight for weight, change in changes.by_weight.items() if change.replaced_by != change.origin}
    missing = sorted((name for name in base if _kind(name) in kinds and name not in trained | saved), key=_in_order)
    listed = config["target_modules"]
    if missing and not any(re.search(r"\d", str(name)) for name in cast("list[object]", listed)):
        raise MergeError(
            f"{adapter.weights}: has no tensors of {missing[0]}"
            f"{f' and {len(missing) - 1} more weights' if missing[1:] else ''}, but of the same module elsewhere, and "
            f"adapter_config.json names it for all layers (target_modules {listed!r:.60}). The file is incomplete: "
            "copy it again, or save the adapter again from the checkpoint."
        )


def _check_listed(changes: Changes, base: Mapping[str, tuple[int, ...]], adapter: "Adapter") -> None:
    """MergeError where the config lists a module, or tokens, as trained, and the file holds nothing of them.

    Experts are passed over: transformers 5 fuses them, so that their names may match no module of training.
    """
    config, changed = adapter.config, changes.by_weight
    listed = config.get("trainable_token_indices")
    if listed and not any(change.tokens for change in changed.values()):
        raise MergeError(_nothing_of(adapter, "trainable_token_indices", str(listed)[:60]))
    # A file without any product is whole where only modules_to_save were kept: PEFT adds nothing then.
    products = any(change.factors or change.whole for change in changed.values())
    for field in ("target_modules", "modules_to_save") if products else ("modules_to_save",):
        names = config.get(field)
        for name in names if isinstance(names, list) else []:
            there = [weight for weight in base if _is_of(weight, str(name)) and ".experts." not in weight]
            if there and not any(_is_of(weight, str(name)) for weight in changed):
                raise MergeError(_nothing_of(adapter, field, str(name)))


def _is_of(weight: str, module: str) -> bool:
    """Whether a weight or bias is of a module of this name, or of one within it."""
    return f".{module}." in f".{weight.rpartition('.')[0]}."


def _nothing_of(adapter: "Adapter", field: str, name: str) -> str:
    return (
        f"{adapter.weights}: holds nothing of {name}, which {field} of adapter_config.json names as trained. The file "
        "is incomplete, or of another run: copy it again, or save the adapter again from the checkpoint."
    )


def _kind(weight: str) -> str:
    """A weight's name without the numbers of layer and expert."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", weight)


def _in_order(weight: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"(?<=\.)\d+(?=\.)", weight)))


def _moves(change: Change, adapter: "TensorFiles") -> bool:
    """Whether training replaced a weight, or added something to it that is not zero because a factor is."""
    if change.replaced_by != change.origin or (change.tokens is not None and change.tokens.ids):
        return True
    if change.whole is not None:
        return True
    if change.added is not None:
        return change.added.scale != 0 and bool(adapter.read(change.added.vector, (slice(None),)).any())
    return change.factors is not None and (
        change.factors.magnitude is not None  # trained by itself: only the weight could tell
        or (
            change.factors.scale != 0
            and all(bool(adapter.read(name, (slice(None),)).any()) for name in (change.factors.a, change.factors.b))
        )
    )


def check_copies(changes: Changes, adapter: "TensorFiles", path: "Path") -> None:
    """MergeError where what replaces a weight is saved twice, and differently."""
    for change in changes.by_weight.values():
        one, other = change.replaced_by, change.copy
        if one is not None and other is not None and not equal_tensors(one, other, adapter):
            raise MergeError(
                f"{path}: {one} and {other} are two different tensors for {change.weight}. Save the adapter again."
            )


def check_finite(change: Change, layer: "Layer") -> None:
    """WeightError where a tensor that an adapter makes a change of holds NaN or infinity; reads them whole."""
    for name in _tensors(change, layer):
        stored = layer.tensors.tensors[name]
        size = stored.shape[0] if stored.shape else 0
        parts = (layer.tensors.read(name, (slice(row, row + ROWS),)) for row in range(0, size, ROWS))
        if not all(bool(part.isfinite().all()) for part in parts):
            raise WeightError(
                f"{stored.file}: {name} holds NaN or infinity, and {change.weight} is made of it. The training "
                "diverged, or the file is damaged: copy it again, or take an earlier checkpoint of the run."
            )


def _tensors(change: Change, layer: "Layer") -> Iterator[str]:
    """The adapter's tensors that a change is made of."""
    factors, whole = change.factors, change.whole
    names = [factors.a, factors.b, factors.magnitude] if factors else []
    names.append(change.replaced_by)
    names.append(change.added.vector if change.added else None)
    names.append(change.tokens.rows if change.tokens else None)
    if whole is not None and layer.modules is not None:
        names += [*layer.modules.parts.modules[whole.module], *layer.modules.parts.shared]
    return filter(None, names)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
