"""Fields of ``quantization_config``: each one known, by its meaning or as harmless, or the run is refused."""

from collections.abc import Mapping

from exporter.source.quantized.values import Folder, refused

ANY = None
"""In place of the values that are accepted: the field says nothing about what the stored tensors mean."""
Fields = Mapping[str, tuple[object, ...] | None]


def check_fields(folder: Folder, where: str, fields: Mapping[str, object], known: Fields) -> None:
    """SourceError for a field that is not known, or whose value is not among the accepted ones.

    Words are compared in lower case; null is as if the field were absent.
    """
    for key, value in fields.items():
        if key not in known:
            raise refused(folder, f"{where}.{key}", f"is an unknown field (its value: {value!r})")
        accepted = known[key]
        spelt = value.lower() if isinstance(value, str) else value
        if accepted is not ANY and value is not None and not any(_same(spelt, one) for one in accepted):
            read = ", ".join(map(repr, accepted)) or "none"
            raise refused(folder, f"{where}.{key}", f"is {value!r}; read are: {read}")


def whole(folder: Folder, key: str, default: int | None = None) -> int:
    """A field that is a whole number. SourceError where it is something else, or is missing and has no default."""
    value = folder.settings.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise refused(folder, f"quantization_config.{key}", f"is {value!r}, expected a whole number")
    return value


def _same(one: object, other: object) -> bool:
    """Equal, and of one type: true is not 1, and 4.0 is not 4."""
    return type(one) is type(other) and one == other
