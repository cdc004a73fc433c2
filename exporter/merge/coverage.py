"""Which kinds of weights carry a change, and in how many layers: a fine-tune that missed its experts is seen."""

import re
from collections.abc import Collection
from dataclasses import dataclass

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
LAYER = re.compile(r"^model\.layers\.(\d+)\.")
EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class Coverage:
    """All weights of one kind: how many of them, and of the layers that have them, training changed."""

    kind: str
    """The weight's name in a layer, its expert's number and ``.weight`` left out: ``self_attn.q_proj``."""
    changed: int
    weights: int
    layers_changed: int
    """Of ``layers``; both are 0 for a weight outside the layers."""
    layers: int
    experts: bool


def coverage(names: Collection[str], changed: Collection[str]) -> tuple[Coverage, ...]:
    """A row for each kind of weight, in the order in which they come.

    Args:
        names: our names of all weights.
        changed: of those that training changed.
    """
    kinds: dict[str, list[str]] = {}
    for name in sorted(names, key=in_order):
        kinds.setdefault(kind_of(name), []).append(name)
    moved = set(changed)
    return tuple(
        Coverage(
            kind=kind,
            changed=len(moved.intersection(alike)),
            weights=len(alike),
            layers_changed=len(_layers(moved.intersection(alike))),
            layers=len(_layers(alike)),
            experts=EXPERT.search(alike[0]) is not None,
        )
        for kind, alike in kinds.items()
    )


def kind_of(name: str) -> str:
    """What a weight is called whatever its layer and expert."""
    inner = LAYER.sub("", name).removeprefix("model.").removesuffix(".weight")
    return NUMBER.sub("", f".{inner}.").replace("..", ".").strip(".")


def missed_experts(rows: Collection[Coverage]) -> str | None:
    """What is to be said where the model has experts and none was changed; None else."""
    experts = [row for row in rows if row.experts]
    if not experts or any(row.changed for row in experts) or not any(row.changed for row in rows):
        return None
    return (
        f"The model has experts ({', '.join(row.kind for row in experts)}), and the adapter changes none of them: it "
        "trained the rest alone. If the experts were to be trained, look at target_modules and target_parameters of "
        "the training."
    )


def _layers(names: Collection[str]) -> set[str]:
    return {match[1] for match in map(LAYER.match, names) if match}


def in_order(name: str) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Embedding first, then layers by number, each one's experts by number, then the rest: a key to sort by."""
    rank = 1 if LAYER.match(name) else 0 if "embed" in name else 2
    return rank, tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.split("."))
