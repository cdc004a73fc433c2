"""An adapter's tensors, each laid to the weight it changes; every one is used, left out by name, or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.errors import MergeError
from exporter.merge.lora import EMBEDDINGS, check_config, check_layer, check_target, rank_and_scale

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


PREFIX = "base_model.model."
FACTORS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
}
# Which part of a change is a whole tensor that PEFT saves of a module, by what it puts after the module's name. With
# save_embedding_layers, or a resized vocabulary, it saves all that its wrappers hold.
WHOLE = {"": "saved", ".modules_to_save": "copy", ".base_layer": "base", ".original_module": "original"}


@dataclass(frozen=True)
class Factors:
    """What is added to a weight: scale · B·A, the adapter's own names of the two."""

    a: str
    b: str
    scale: float
    embedding: bool
    """B·A is (columns, rows) of the weight: PEFT's layer for embeddings."""


@dataclass(frozen=True)
class Change:
    """What training did to one weight: replaced it, or added to it, or both."""

    weight: str
    replaced_by: str | None = None
    factors: Factors | None = None
    copy: str | None = None
    """The same tensor as ``replaced_by``, saved once more."""
    origin: str | None = None
    """What the base held when training began, where that was saved too: of other rows if the vocabulary was resized."""


@dataclass(frozen=True)
class Changes:
    """All changes of an adapter, by our name of the weight; its tensors of parts that are not exported."""

    by_weight: Mapping[str, Change] = field(default_factory=dict)
    tensors: int = 0
    left_out: tuple[str, ...] = ()


UNCHANGED = Changes()
_Adapter = tuple[Mapping[str, object], Mapping[str, tuple[int, ...]], "Path"]
"""An adapter's configuration, its tensors' shapes, and its file."""


def read_changes(
    config: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    spell: "Callable[[str], str | None]",
    path: "Path",
) -> Changes:
    """The changes of a LoRA adapter.

    Args:
        config: adapter_config.json.
        shapes: the adapter's tensors.
        spell: our name of a weight as the adapter calls it; None for one of a part that is left out.
        path: the adapter's file, for messages.

    Raises:
        MergeError: an adapter that is no plain LoRA, or a tensor that no rule knows.
    """
    check_config(config, path)
    slots: dict[str, dict[str, str]] = {}
    left_out = []
    for name in shapes:
        module, slot = _slot(name, config, path)
        weight = spell(module if slot in WHOLE.values() else f"{module}.weight")
        if weight is None:
            left_out.append(name)
        elif slot in slots.setdefault(weight, {}):
            raise MergeError(f"{path}: {weight} has two tensors for one place: {slots[weight][slot]} and {name}.")
        else:
            slots[weight][slot] = name
    changes = {weight: _change(weight, names, (config, shapes, path)) for weight, names in slots.items()}
    return Changes(changes, len(shapes), tuple(left_out))


def _slot(name: str, config: Mapping[str, object], path: "Path") -> tuple[str, str]:
    """The module (or the whole parameter, for a replacement) of an adapter's tensor, and its part in the change."""
    if not name.startswith(PREFIX):
        raise MergeError(f"{path}: the tensor {name} does not begin with {PREFIX!r}, so it is not as PEFT saves it.")
    inner = name.removeprefix(PREFIX)
    for ending, slot in FACTORS.items():
        if inner.endswith(ending):
            return inner.removesuffix(ending), slot
    module, _, parameter = inner.rpartition(".")
    ending = next((ending for ending in WHOLE if ending and module.endswith(ending)), "")
    module = module.removesuffix(ending)
    if parameter in {"weight", "bias"} and "lora_" not in inner and (ending or _is_saved(module, config)):
        return f"{module}.{parameter}", WHOLE[ending]
    raise MergeError(
        f"{path}: the tensor {name} is of a kind that is not merged: neither lora_A nor lora_B, nor of a module in "
        "modules_to_save. The run is refused, since leaving it out would change the model. Merge it with PEFT first."
    )


def _is_saved(module: str, config: Mapping[str, object]) -> bool:
    """Whether PEFT keeps a copy of a module: an embedding, or it or one around it is of ``modules_to_save``.

    An entry there means every module whose name ends so, with or without a dot before it (PEFT's ``_set_trainable``).
    """
    entries = config.get("modules_to_save")
    saved = tuple(map(str, entries)) if isinstance(entries, list) else ()
    parts = module.split(".")
    around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return parts[-1] in EMBEDDINGS or any(name.endswith(saved) for name in around)


def _change(weight: str, names: Mapping[str, str], adapter: "_Adapter") -> Change:
    """The change that an adapter's tensors of one weight make together; MergeError where they contradict each other."""
    whole = [names[slot] for slot in ("saved", "copy", "base") if slot in names]
    factors = _factors({slot: name for slot, name in names.items() if slot not in WHOLE.values()}, adapter)
    if ("base" in names and len(whole) > 1) or (factors and "copy" in names):
        raise MergeError(f"{adapter[2]}: {weight} has two tensors for one place: {' and '.join(names.values())}.")
    if not whole and "original" in names:
        raise MergeError(
            f"{adapter[2]}: {names['original']} is what was there before training; what training made of it is not in "
            "the file. Save the adapter again."
        )
    copy = whole[1] if len(whole) > 1 else None
    return Change(weight, whole[0] if whole else None, factors, copy, names.get("base", names.get("original")))


def _factors(given: Mapping[str, str], adapter: "_Adapter") -> Factors | None:
    """The pair of one weight with its scale; MergeError for half a pair, or a rank that is not the configured one."""
    config, shapes, path = adapter
    if not given:
        return None
    embedding = "embedding_a" in given or "embedding_b" in given
    a, b = (given.get(f"embedding_{key}" if embedding else key) for key in "ab")
    if a is None or b is None or len(given) > 2:  # noqa: PLR2004  (a pair)
        raise MergeError(
            f"{path}: {' and '.join(given.values())} of one weight: one has no counterpart, for lora_A and lora_B (or "
            "lora_embedding_A and _B) go together. Save the adapter again."
        )
    module = a.removeprefix(PREFIX).rpartition(".lora_")[0]
    check_layer(config, module, path)
    check_target(config, module, path)
    rank, scale = rank_and_scale(config, module, path)
    if 0 in (*shapes[a], *shapes[b]):
        raise MergeError(
            f"{path}: {a} is {list(shapes[a])} and {b} is {list(shapes[b])}: the parameters were not gathered when the "
            "run was saved under DeepSpeed ZeRO-3 or FSDP. Run zero_to_fp32.py on the checkpoint, or save once more."
        )
    if len(shapes[a]) != 2 or len(shapes[b]) != 2:  # noqa: PLR2004  (matrices)
        raise MergeError(
            f"{path}: {a} is {list(shapes[a])} and {b} is {list(shapes[b])}, expected two matrices. Such an adapter is "
            "not merged here. Merge it with PEFT first."
        )
    if shapes[a][0] != rank or shapes[b][-1] != rank:
        raise MergeError(
            f"{path}: {module} has rank {shapes[a][0]} by its tensors, {rank} by adapter_config.json "
            "(r, rank_pattern). The two files are of different runs."
        )
    return Factors(a, b, scale, embedding)
