"""Fields that are worked out of several others."""

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


def group_rows(config: Config) -> int:
    """The rows of all queries that share a key."""
    return head_size(config) * (whole(config, "num_attention_heads") // whole(config, "num_key_value_heads"))
