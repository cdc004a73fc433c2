"""An adapter's tensors, each laid to the weight it changes; every one is used, left out by name, or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge.lora import check_config, rank_and_scale

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.run import Adapter

PREFIX = "base_model.model."
EMBEDDINGS = ("embed_tokens", "lm_head")
FACTORS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
}


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


@dataclass(frozen=True)
class Changes:
    """All changes of an adapter, by our name of the weight; its tensors of parts that are not exported."""

    by_weight: Mapping[str, Change] = field(default_factory=dict)
    tensors: int = 0
    left_out: tuple[str, ...] = ()


UNCHANGED = Changes()


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
        weight = spell(module if slot == "replaced_by" else f"{module}.weight")
        if weight is None:
            left_out.append(name)
        elif slot in slots.setdefault(weight, {}):
            raise MergeError(f"{path}: {weight} has two tensors for one place: {slots[weight][slot]} and {name}.")
        else:
            slots[weight][slot] = name
    changes = {
        weight: Change(weight, names.get("replaced_by"), _factors(names, config, shapes, path))
        for weight, names in slots.items()
    }
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
    saved = config.get("modules_to_save")
    kept = (*EMBEDDINGS, *(saved if isinstance(saved, list) else ()))
    base = module.removesuffix(".base_layer")
    if base != module or any(base == entry or base.endswith(f".{entry}") for entry in kept):
        return f"{base}.{parameter}", "replaced_by"
    raise MergeError(
        f"{path}: the tensor {name} is of a kind that is not merged: neither lora_A nor lora_B, nor of a module in "
        "modules_to_save. The run is refused, since leaving it out would change the model. Merge it with PEFT first."
    )


def _factors(
    names: Mapping[str, str], config: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], path: "Path"
) -> Factors | None:
    """The pair of one weight with its scale; MergeError for half a pair, or a rank that is not the configured one."""
    embedding = "embedding_a" in names or "embedding_b" in names
    a, b = (names.get(f"embedding_{key}" if embedding else key) for key in "ab")
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise MergeError(f"{path}: {a or b} has no counterpart: lora_A and lora_B go together. Save the adapter again.")
    module = a.removeprefix(PREFIX).rpartition(".lora_")[0]
    rank, scale = rank_and_scale(config, module, path)
    if 0 in (*shapes[a], *shapes[b]):
        raise MergeError(
            f"{path}: {a} is {list(shapes[a])} and {b} is {list(shapes[b])}: the parameters were not gathered when the "
            "run was saved under DeepSpeed ZeRO-3 or FSDP. Run zero_to_fp32.py on the checkpoint, or save once more."
        )
    if shapes[a][0] != rank or shapes[b][-1] != rank:
        raise MergeError(
            f"{path}: {module} has rank {shapes[a][0]} by its tensors, {rank} by adapter_config.json "
            "(r, rank_pattern). The two files are of different runs."
        )
    return Factors(a, b, scale, embedding)


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


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
