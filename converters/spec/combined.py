"""Fields that are worked out of several others."""

from collections.abc import Callable, Sequence
from typing import cast

from converters.spec.derive import Derive, head_size, whole
from converters.spec.values import Config


def joined(*names: str) -> Derive:
    """Fields as words, with a space between them; for what is required of several at once."""
    return lambda config: " ".join(str(config.get(name)) for name in names)


def has(name: str) -> Derive:
    """Whether a field is there, and not null."""
    return lambda config: config.get(name) is not None


def only_with(name: str, derive: Derive) -> Derive:
    """What a word works out, where another field is there and not null; else None."""
    return lambda config: None if config.get(name) is None else derive(config)


def any_of(name: str) -> Derive:
    """Whether a field with a truth for each layer holds true in some layer."""
    return lambda config: any(cast("Sequence[bool]", config[name]))


def groups(config: Config) -> tuple[int, int]:
    """Into how many groups experts are put, and of how many of these they are taken; 1 and 1 where it is of all.

    ValueError where the experts cannot be put into such groups: llama.cpp then stops at the first token.
    """
    experts, count, used = (whole(config, name) for name in ("num_experts", "n_group", "topk_group"))
    if not 1 <= used <= count:
        raise ValueError(f"topk_group is {used}, expected a number from 1 to n_group, {count}")
    if used == count:
        return 1, 1
    if experts % count or experts < 2 * count:  # a group is as good as its best two
        raise ValueError(f"{experts} experts are not {count} groups (n_group) of two or more")
    return count, used


def one_of(derive: Callable[[Config], tuple[int, ...]], k: int) -> Derive:
    """The k-th of the numbers that a word works out."""
    return lambda config: derive(config)[k]


def not_of_class(name: str, ignored_by: str) -> Derive:
    """A field; None in models of a class that ignores it."""
    return lambda config: None if config.get("architecture") == ignored_by else config.get(name)


def unlike(name: str, usual: float, *, unless: str) -> Derive:
    """A field where it is not what is usual, and another field does not say; else None."""
    return lambda config: None if config[name] == usual or config.get(unless) is not None else config[name]


def group_rows(config: Config) -> int:
    """The rows of all queries that share a key."""
    return head_size(config) * (whole(config, "num_attention_heads") // whole(config, "num_key_value_heads"))
