"""Fields of a config that are worked out from others: each word makes a function of the config.

They raise ValueError, TypeError or KeyError where the config does not allow it; the run is then
refused with the reason.
"""

from collections.abc import Callable, Sequence
from math import prod
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


def layers_that_are(*kinds: str) -> Derive:
    """For each layer, whether ``layer_types`` says one of some kinds of it."""
    return lambda config: tuple(kind in kinds for kind in cast("Sequence[str]", config["layer_types"]))


def layers_from(first: str) -> Derive:
    """For each layer, whether it is not one of the first, whose number a field says."""
    return lambda config: tuple(layer >= whole(config, first) for layer in range(whole(config, "num_hidden_layers")))


def layers_but(others: str) -> Derive:
    """For each layer, whether another field with a truth for each layer says no."""
    return lambda config: tuple(not there for there in cast("Sequence[bool]", config[others]))


def whole(config: Config, name: str) -> int:
    """A field that must be a whole number; TypeError where it is none."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.60}, expected a whole number")
    return value
