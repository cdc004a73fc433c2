"""Fields of vision towers, and of what prepares images for them."""

from collections.abc import Callable, Mapping
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


def patches(*, of: str, side: str) -> Derive:
    """How many patches a square image has, whose side and theirs two fields say; ValueError where some are cut."""

    def derive(config: Config) -> int:
        found, rest = divmod(whole(config, of), max(whole(config, side), 1))
        if rest or not found:
            raise ValueError(f"{of} is {config[of]}, not a multiple of {side}, {config[side]}")
        return found * found

    return derive


def one_more(name: str) -> Derive:
    """A whole-number field and one."""
    return lambda config: whole(config, name) + 1


def same(one: str, other: str) -> Derive:
    """Whether two fields hold the same."""
    return lambda config: config.get(one) == config.get(other)


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


def every_so_manyth(name: str) -> Derive:
    """How many layers are from one to the next that a field lists; ValueError where it lists not each so-manyth."""

    def derive(config: Config) -> int:
        found, layers = numbers(name)(config), whole(config, "num_hidden_layers")
        step = found[0] + 1 if found else 0
        if not step or found != tuple(range(step - 1, layers, step)):
            raise ValueError(f"{name} is {found!r:.60}, not each so-manyth of {layers} layers")
        return step

    return derive


def numbers(name: str, *, usual: tuple[int, ...] = ()) -> Callable[[Config], tuple[int, ...]]:
    """A field's list of whole numbers; what is usual where it is absent."""

    def derive(config: Config) -> tuple[int, ...]:
        found = config.get(name, list(usual))
        if not isinstance(found, list) or not all(type(one) is int and one >= 0 for one in found):
            raise ValueError(f"{name} is {found!r:.60}, expected a list of whole numbers")
        return tuple(found)

    return derive


def chosen_layers(name: str) -> Derive:
    """For each layer, whether a field lists its number; ValueError for one that is no layer's, or out of order."""

    def derive(config: Config) -> tuple[bool, ...]:
        found, layers = cast("tuple[int, ...]", config[name]), range(whole(config, "num_hidden_layers"))
        if sorted({*found}) != [*found] or not {*found} <= {*layers}:
            raise ValueError(f"{name} is {found!r:.60}, expected rising numbers of {len(layers)} layers")
        return tuple(layer in found for layer in layers)

    return derive


def table_side(name: str) -> Derive:
    """The pixels of a side of the square image whose patches a table of positions has a row for."""

    def derive(config: Config) -> int:
        count = whole(config, name)
        if isqrt(count) ** 2 != count:
            raise ValueError(f"{name} is {count}, not the number of patches of a square image")
        return isqrt(count) * whole(config, "patch_size")

    return derive


def told(name: str, words: Mapping[str, str]) -> Derive:
    """The word for a field's value; ValueError for a value that has none."""

    def derive(config: Config) -> str:
        found = words.get(str(config.get(name)))
        if found is None:
            raise ValueError(f"{name} is {config.get(name)!r:.60}, the projector is exported of {', '.join(words)}")
        return found

    return derive


def row_of(name: str) -> Order:
    """The one row whose number a field says; ValueError where there is no such row."""

    def order(config: Config, height: int) -> tuple[Span, ...]:
        row = whole(config, name)
        if not 0 <= row < height:
            raise ValueError(f"{name} is {row}, there are {height} rows")
        return ((row, row + 1, 1),)

    return order


def inverse(name: str) -> Derive:
    """One divided by a field, as a whole number; ValueError where it is none."""

    def derive(config: Config) -> int:
        found = config.get(name)
        number = 1 / found if isinstance(found, float) and found > 0 else 0.0
        if not number or number != int(number):
            raise ValueError(f"{name} is {found!r:.60}, expected one divided by a whole number")
        return int(number)

    return derive
