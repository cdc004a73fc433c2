"""What rounding the base to 4 bits cost, against what training added: by layer, and whether to warn."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class LayerError:
    """One layer's Frobenius norms, over its weights that were quantized in training and that the adapter changes."""

    layer: str
    """Its number; a weight's name where it is in no layer."""
    weights: int
    delta: float
    """‖Δ‖, of what training added."""
    error: float
    """‖NF4(W) - W‖."""

    @property
    def ratio(self) -> float:
        """‖NF4(W) - W‖ / ‖Δ‖; infinite where nothing was added."""
        return self.error / self.delta if self.delta else float("inf")


def by_layer(weights: Iterable[tuple[str, float, float]]) -> tuple[LayerError, ...]:
    """The layers, in order, of weights given as (our name, ‖Δ‖, ‖NF4(W) - W‖)."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, delta, error in weights:
        layer = LAYER.search(name)
        found.setdefault(layer[1] if layer else name, []).append((delta, error))
    rows = (
        LayerError(layer, len(pairs), sum(d * d for d, _ in pairs) ** 0.5, sum(e * e for _, e in pairs) ** 0.5)
        for layer, pairs in found.items()
    )
    return tuple(sorted(rows, key=lambda row: (not row.layer.isdecimal(), row.layer.zfill(9))))


def warning(layers: Iterable[LayerError], *, over: str) -> str | None:
    """The warning where the error outweighs the delta in a layer; None where it does in none.

    ``over`` is what the adapter is laid over: ``full`` or ``nf4``.
    """
    rows = tuple(layers)
    worse = [row for row in rows if row.error > row.delta]
    if not worse:
        return None
    worst = max(worse, key=lambda row: row.ratio)
    place = f"layer {worst.layer}" if worst.layer.isdecimal() else worst.layer
    said = (
        f"QLoRA: in {len(worse)} of {len(rows)} layers the base's rounding to 4 bits is larger than what training added"
        f" (the worst: {place}, {worst.ratio:.3g} times). "
    )
    if over == "nf4":
        return said + "The adapter is laid over the rounded base, as in training (--qlora-base nf4); measure both."
    return said + (
        "Training saw the rounded base, and the adapter is laid over the 16-bit one, so the result may differ from "
        "what was trained: export with --qlora-base nf4 too, and measure both."
    )
