"""What rounding the base to 4 bits cost, against what training added: by layer, and whether to warn."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

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
    rows = sorted(layers, key=lambda row: row.ratio)
    worse = [row for row in rows if row.error > row.delta]
    if not worse:
        return None
    worst = worse[-1]
    place = f"layer {worst.layer}" if worst.layer.isdecimal() else worst.layer
    # Of an even number the lower of the two in the middle: the upper may be infinite.
    median = rows[(len(rows) - 1) // 2].ratio
    laid, other = ("16-bit", "nf4") if over == "full" else ("rounded", "full")
    return (
        f"QLoRA: in {len(worse)} of {len(rows)} layers rounding the base to 4 bits took more than training added "
        f"(median of all layers: {_times(median)}; worst, {place}: {_times(worst.ratio)}). QLoRA trains over the "
        f"rounded base; here the adapter is laid over the {laid} one. Only measuring tells which of the two is better: "
        f"export with --qlora-base {other} too, into another folder, and compare the reference's perplexity in the two "
        "reports, on a text of your own (--text FILE). The KL divergences are not comparable: each is from a reference "
        "of its own."
    )


def _times(ratio: float) -> str:
    """How many times what training added, in words."""
    return f"{ratio:.3g} times" if isfinite(ratio) else "training added nothing"
