"""Which of the changed weights are compared: of each kind one, and of each rank and alpha."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING
from exporter.merge.coverage import kind_of
from exporter.merge.lora import ALPHA

if TYPE_CHECKING:
    from exporter.merge import Layer, Merged
    from exporter.merge.values import Change
    from exporter.run import Adapter

SAMPLE = 8
"""Modules that are compared, where there are fewer kinds."""
UNCHANGED = "saved as it was"
RESIZED = "resized"
Pair = tuple[int, int, object]
"""Which adapter it is, a rank and an alpha of it."""


@dataclass(frozen=True)
class Sample:
    """The weights that are compared, and how many pairs of rank and alpha are among them, of how many."""

    weights: tuple[str, ...]
    pairs: int
    all_pairs: int


def choose(source: "Merged", adapters: "Sequence[Adapter]", changed: Sequence[str]) -> Sample:
    """Of each kind of weight and way of changing one; of each rank and alpha one; then the last of each kind.

    All kinds, and up to ``SAMPLE`` weights.

    Args:
        source: the finished weights.
        adapters: those of its layers.
        changed: our names of the weights to choose from.
    """
    layers = list(zip(source.layers, adapters, strict=True))
    pairs = {name: _pairs(name, layers) for name in changed}
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in changed:
        kinds.setdefault((kind_of(name), how(name, source)), []).append(name)
    covered: set[Pair] = set()
    taken: dict[str, None] = {}
    for names in kinds.values():
        one = next((name for name in names if pairs[name] - covered), names[0])
        taken[one] = None
        covered |= pairs[one]
    most = max(SAMPLE, len(kinds))
    for name in changed:
        if len(taken) < most and pairs[name] - covered:
            taken[name] = None
            covered |= pairs[name]
    last = [names[-1] for names in kinds.values() if names[-1] not in taken]
    return Sample((*taken, *last[: most - len(taken)]), len(covered), len(set[Pair]().union(*pairs.values())))


def how(name: str, source: "Merged") -> str:
    """What the adapters do to a weight, one after another, in a word or two each."""
    shapes = source.base.shapes()
    shape = shapes.get(name) or shapes[EMBEDDING]
    words = []
    for layer in source.layers:
        change = layer.changes.by_weight.get(name)
        if change is not None:
            after = layer.shape(change, shape)
            words.append(_how(change, resized=after != shape))
            shape = after
    return ", then ".join(words)


def _how(change: "Change", *, resized: bool) -> str:
    words = {
        RESIZED: resized,
        "replaced": change.replaced_by is not None and change.replaced_by != change.origin,
        "DoRA": change.factors is not None and change.factors.magnitude is not None,
        "added": (change.factors is not None and change.factors.magnitude is None) or change.added is not None,
        "rows replaced": change.tokens is not None,
        "merged by PEFT": change.whole is not None,
    }
    return " and ".join(word for word, fits in words.items() if fits) or UNCHANGED


def _pairs(name: str, layers: "Sequence[tuple[Layer, Adapter]]") -> set[Pair]:
    """The rank and alpha of each adapter's factors of a weight.

    The rank by the file, the alpha as PEFT finds it in the configuration: what is to be checked chooses nothing.
    """
    pairs: set[Pair] = set()
    for k, (layer, adapter) in enumerate(layers):
        change = layer.changes.by_weight.get(name)
        if change is not None and change.factors is not None:
            a, expert = change.factors.a, change.factors.expert
            rank = layer.tensors.tensors[a].shape[0] // (expert.count if expert else 1)
            pairs.add((k, rank, _alpha(adapter, a.partition(".lora_")[0])))
    return pairs


def _alpha(adapter: "Adapter", module: str) -> object:
    """What alpha_pattern says of a module, else lora_alpha."""
    patterns, default = adapter.config.get("alpha_pattern"), adapter.config.get("lora_alpha", ALPHA)
    if not isinstance(patterns, dict) or not patterns:
        return default
    from peft.utils.other import get_pattern_key  # noqa: PLC0415  (seconds to import)

    return patterns.get(get_pattern_key(list(patterns), module), default)
