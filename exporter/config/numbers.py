"""Numbers of config.json: what a field may be, and how a value is shown in a message."""

from pathlib import Path

from exporter.errors import RunError

LARGEST = 2**31
LARGEST_FLOAT = 3.4e38  # float32's, in which GGUF keeps them


def number(value: object, key: str, path: Path) -> float:
    """A number of a JSON file as a float, above 0; RunError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{path}: {key} is {value!r}, expected a number.")
    if not 0 < value < LARGEST_FLOAT:  # not a number is neither
        raise RunError(f"{path}: {key} is {shown(value)}, expected a number above 0. Copy it from the base's config.")
    return float(value)


def shown(value: object) -> str:
    """A value for a message, cut where it is long; Python refuses to print the longest whole numbers."""
    if isinstance(value, int) and abs(value) > 1 << 100:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:60]
