"""Axes: from values to places in a picture, and the marks along them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

MARKS = 5
NICE = (1.0, 2.0, 5.0, 10.0)
MARGIN = 0.06
TWO_DECADES, MOST_DECADES = 2.2, 7
MOST_DECIMALS, LONGEST = 5, 1e6


@dataclass(frozen=True)
class Scale:
    """``at`` gives the place of a value, cut at the ends of the axis; ``ticks`` are values and their texts."""

    at: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]


def linear(low: float, high: float, first: float, last: float) -> Scale:
    """Return an axis from ``first`` to ``last`` that shows ``low`` to ``high`` with a margin on both sides."""
    span = (high - low) or abs(high) * 0.2 or 1.0
    bottom, top = low - MARGIN * span, high + MARGIN * span
    step = _step((top - bottom) / MARKS)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [index * step for index in range(math.ceil(bottom / step), math.floor(top / step) + 1)]
    ticks = [
        (mark, f"{mark:.3g}" if decimals > MOST_DECIMALS or top >= LONGEST else f"{mark:.{decimals}f}")
        for mark in marks
    ]

    def at(value: float) -> float:
        return first + (last - first) * min(max((value - bottom) / (top - bottom), 0.0), 1.0)

    return Scale(at, tuple(ticks))


def logarithmic(low: float, high: float, first: float, last: float) -> Scale:
    """Return a logarithmic axis for ``low`` to ``high``, both above 0; a value of 0 or less lies at its beginning."""
    bottom, top = math.log10(low), math.log10(high)
    margin = MARGIN * (top - bottom)
    bottom, top = bottom - margin, top + margin
    span = top - bottom
    leading = (1, 2, 3, 4, 6, 8) if span < 1 else (1, 2, 5) if span < TWO_DECADES else (1,)
    every = max(1, math.ceil(span / MOST_DECADES))
    powers = range(math.floor(bottom), math.ceil(top) + 1, every)
    values = [m * 10.0**power for power in powers for m in leading]
    ticks = tuple((value, f"{value:.6g}") for value in values if bottom <= math.log10(value) <= top)

    def at(value: float) -> float:
        place = math.log10(value) if value > 0 else bottom
        return first + (last - first) * min(max((place - bottom) / (top - bottom), 0.0), 1.0)

    return Scale(at, ticks)


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(nice * power for nice in NICE if nice * power >= least * (1 - 1e-9))
