"""A GGUF file's header: all that stands before the tensors' data, by version 3 of the format."""

import struct
from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from exporter.errors import PlanError

if TYPE_CHECKING:
    from exporter.plan.values import Value

ALIGNMENT = 32
VERSION = 3
STRING, ARRAY = 8, 9
# Type of our values -> the format's number of a plain value, of an array's element, and how both are packed.
NUMBERS = {bool: (7, 7, "?"), int: (4, 5, "I"), np.int32: (5, 5, "i"), float: (6, 6, "f")}


def header(metadata: "Mapping[str, Value]", tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> bytes:
    """The header of a file, padded to where its data begins.

    Args:
        metadata: by full key; an int becomes UINT32, a numpy.int32 INT32, a float FLOAT32, a tuple an array (of INT32,
            FLOAT32, …). The architecture comes first, whatever its place.
        tensors: name, shape (rows before columns) and GGML type of each, in file order.
    """
    first = {"general.architecture": metadata["general.architecture"]}
    values = first | dict(metadata)
    infos = _infos(tensors)
    pairs = [_pair(key, value) for key, value in values.items()]
    data = b"".join([b"GGUF", struct.pack("<IQQ", VERSION, len(infos), len(pairs)), *pairs, *infos])
    return data + bytes(-len(data) % ALIGNMENT)


def _infos(tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> list[bytes]:
    """Name, dimensions (columns first), type and place of each tensor."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415  (slow to import)

    infos, offset = [], 0
    for name, shape, kind in tensors:
        number = GGMLQuantizationType[kind]
        block, size = GGML_QUANT_SIZES[number]
        rest = struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), number, offset)
        infos.append(_text(name) + rest)
        offset += -(-prod(shape) // block * size // ALIGNMENT) * ALIGNMENT
    return infos


def _pair(key: str, value: "Value") -> bytes:
    """A key and its value. PlanError for a number, or a text, that the format cannot hold."""
    try:
        return _text(key) + _value(value)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise PlanError(f"{key}: {value!r:.60} cannot be written in GGUF ({error}). Correct the run's file.") from error


def _text(text: str) -> bytes:
    """A string: its length in bytes, then UTF-8."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: "Value") -> bytes:
    """The number of a value's type, then the value."""
    if isinstance(value, tuple):
        return struct.pack("<I", ARRAY) + _elements(value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    number, _, code = NUMBERS[type(value)]
    return struct.pack(f"<I{code}", number, value)


def _elements(values: tuple[object, ...]) -> bytes:
    """An array: its elements' type, their count, the elements. ValueError where they are of several types, or none."""
    kinds = {type(value) for value in values}
    if len(kinds) != 1:
        raise ValueError(f"an array of {len(values)} elements of {len(kinds)} types; GGUF's arrays are of one type")
    if kinds == {str}:
        return struct.pack("<IQ", STRING, len(values)) + b"".join(_text(str(value)) for value in values)
    _, number, code = NUMBERS[kinds.pop()]
    return struct.pack(f"<IQ{len(values)}{code.lower()}", number, len(values), *values)
