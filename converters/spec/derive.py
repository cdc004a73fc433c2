"""Fields of a config that are worked out from others: each word makes a function of the config.

They raise ValueError, TypeError or KeyError where the config does not allow it; the run is then
refused with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from math import log, prod
from typing import cast

from converters.spec.values import Config

Derive = Callable[[Config], object]


def constant(value: object) -> Derive:
    """The same for every model of the family."""
    return lambda _: value


def sum_of(*names: str) -> Derive:
    """The sum of whole-number fields."""
    return lambda config: sum(whole(config, name) for name in names)


def product_of(*names: str) -> Derive:
    """The product of whole-number fields."""
    return lambda config: prod(whole(config, name) for name in names)


def layers_that_are(*kinds: str, absent: Derive | None = None) -> Derive:
    """For each layer, whether ``layer_types`` says one of some kinds of it; ``absent`` where it is not there."""

    def derive(config: Config) -> object:
        if absent is not None and config.get("layer_types") is None:
            return absent(config)
        return tuple(kind in kinds for kind in cast("Sequence[str]", config["layer_types"]))

    return derive


def all_but_every(count: int | str) -> Derive:
    """For each layer, whether it is not each so-manyth: a number, or a field that says it."""

    def derive(config: Config) -> object:
        step = whole(config, count) if isinstance(count, str) else count
        return tuple((layer + 1) % step != 0 for layer in range(whole(config, "num_hidden_layers")))

    return derive


def yarn_attention(config: Config) -> float | None:
    """What YaRN multiplies queries and keys by, 0.1 ln(factor) + 1 (arXiv 2309.00071, 3.4); None without YaRN."""
    if config["rope_type"] != "yarn":
        return None
    return 0.1 * log(cast("float", config["rope_scaling_factor"])) + 1.0


def layers_from(first: str) -> Derive:
    """For each layer, whether it is not one of the first, whose number a field says."""
    return lambda config: tuple(layer >= whole(config, first) for layer in range(whole(config, "num_hidden_layers")))


def layers_but(others: str) -> Derive:
    """For each layer, whether another field with a truth for each layer says no."""
    return lambda config: tuple(not there for there in cast("Sequence[bool]", config[others]))


def or_else(name: str, value: object) -> Derive:
    """A field, or a value where it is null or absent."""
    return lambda config: value if config.get(name) is None else config[name]


def times(name: str, factor: int) -> Derive:
    """So many times a whole-number field."""
    return lambda config: factor * whole(config, name)


def head_size(config: Config) -> int:
    """The width of a head: ``head_dim``, or hidden size / heads where the config has none."""
    if config.get("head_dim") is not None:
        return whole(config, "head_dim")
    return whole(config, "hidden_size") // whole(config, "num_attention_heads")


def qkv_rows(config: Config) -> int:
    """The rows of queries, keys and values in one matrix."""
    return head_size(config) * (whole(config, "num_attention_heads") + 2 * whole(config, "num_key_value_heads"))


def rotated_part(fraction: str = "partial_rotary_factor") -> Derive:
    """How many numbers of each head are rotated: its width times a field's fraction, in whole numbers.

    ValueError where these are not pairs of the head's numbers: llama.cpp then stops, or goes on for ever.
    """

    def derive(config: Config) -> int:
        head = head_size(config)
        turned = int(head * float(cast("float", config[fraction])))
        if turned % 2 or not 2 <= turned <= head:  # noqa: PLR2004  (a pair)
            raise ValueError(f"{fraction} is {config[fraction]}, which is {turned} of a head's {head}, not some pairs")
        return turned

    return derive


def lacks(name: str) -> Derive:
    """Whether a field is absent, null, or 0."""
    return lambda config: not config.get(name)


def at_least(name: str, number: int) -> Derive:
    """Whether a whole-number field is so large."""
    return lambda config: whole(config, name) >= number


def where(name: str, value: object) -> Derive:
    """A field where it has a value, else None."""
    return lambda config: value if config.get(name) == value else None


def first_of(*names: str) -> Derive:
    """The first of some fields that the config has; None where it has none."""
    return lambda config: next((config[name] for name in names if config.get(name) is not None), None)


def whole(config: Config, name: str) -> int:
    """A field that must be a whole number; TypeError where it is none."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.60}, expected a whole number")
    return value


def length_of(part: str, name: str, *, usual: int) -> Derive:
    """How long a list is that a part of the config holds; ``usual`` where there is no such list."""

    def derive(config: Config) -> int:
        held = cast("Mapping[str, object]", config.get(part) or {}).get(name)
        return usual if held is None else len(cast("Sequence[object]", held))

    return derive


def quotient(over: str, under: str) -> Derive:
    """A whole-number field divided by another; ValueError where something is left over."""

    def derive(config: Config) -> int:
        result, rest = divmod(whole(config, over), max(whole(config, under), 1))
        if rest or not result:
            raise ValueError(f"{over} is {config[over]}, not a multiple of {under}, {config[under]}")
        return result

    return derive
