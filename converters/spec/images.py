"""Fields of vision towers, and of what prepares images for them."""

from math import isfinite, isqrt
from typing import cast

from converters.spec.derive import Derive, whole
from converters.spec.values import Config, Order, Span


def channels(name: str) -> Derive:
    """A field's three numbers, one for each colour; ValueError for anything else."""

    def derive(config: Config) -> tuple[float, ...]:
        found = config.get(name)
        numbers = found if isinstance(found, list) else []
        if len(numbers) != 3 or not all(type(one) in (int, float) and isfinite(one) for one in numbers):  # noqa: PLR2004
            raise ValueError(f"{name} is {found!r:.60}, expected three numbers")
        return tuple(float(one) for one in numbers)

    return derive


def patches_per_token(tokens: str) -> Derive:
    """How many patches of a side a token is made of, where so many tokens (a field) are made of a square image."""

    def derive(config: Config) -> int:
        side, count = whole(config, "image_size") // whole(config, "patch_size"), isqrt(whole(config, tokens))
        if count * count != whole(config, tokens) or not count or side % count:
            raise ValueError(f"{config[tokens]} tokens ({tokens}) cannot be made of {side} x {side} patches")
        return side // count

    return derive


def unless(name: str, usual: int) -> Derive:
    """A whole-number field where it is not what is usual; else None."""
    return lambda config: None if whole(config, name) == usual else whole(config, name)


def frame(k: int, *, of: int) -> Order:
    """The k-th frame's columns of a kernel over so many frames, (rows, channels, frames, height, width)."""

    def order(config: Config, width: int) -> tuple[Span, ...]:
        count = cast("int", config["num_channels"])
        size = width // (count * of)
        if size * count * of != width:
            raise ValueError(f"{width} columns are not {count} channels of {of} frames")
        starts = ((channel * of + k) * size for channel in range(count))
        return tuple((start, start + size, 1) for start in starts)

    return order
