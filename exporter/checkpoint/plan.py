"""Which tensors a merged checkpoint holds, of which weights each is made, and where it lies."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.source.files import open_model
from exporter.source.names import Weight, is_turned, spell
from exporter.source.quantized import Dequantized, dequantized
from exporter.source.replicated import in_layer_of, repeated

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.run import Run
    from exporter.source.files import TensorFiles

BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
"""Of one number, by safetensors' name of its type; the others take one."""
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
ALIGNMENT = 8


@dataclass(frozen=True)
class Part:
    """A weight's place in a tensor: all rows of the weight, from ``first_row`` of the tensor on.

    In a tensor that lies turned over the rows are columns, counted through the matrices of all experts.
    """

    weight: str
    first_row: int
    rows: int
    step: int = 1
    """From one of the weight's rows to the next."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is written: the weights it is made of, or none where it is copied as the base stores it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...] = ()
    turned: bool = False
    """The rows of its parts are its columns."""

    @property
    def whole(self) -> bool:
        """Whether a matrix of it must be put together before it is written: its parts' rows do not lie in order."""
        return self.turned or any(part.step > 1 for part in self.parts)

    @property
    def bytes(self) -> int:
        """Of its data."""
        return prod(self.shape) * BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class Shard:
    """One file: its tensors in order, the widest numbers first, so that every tensor is aligned."""

    file: str
    tensors: tuple[Tensor, ...]

    def header(self) -> bytes:
        """The length and the JSON text that the format begins with (its README, "Format"), padded to eight bytes."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        for tensor in self.tensors:
            stop = start + tensor.bytes
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        return struct.pack("<Q", len(text)) + text

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        return len(self.header()) + sum(tensor.bytes for tensor in self.tensors)


def base_files(run: "Run") -> "TensorFiles | Dequantized":
    """The base's stored tensors by their own names, quantized ones as if they were stored plain."""
    return dequantized(open_model(run.base), run.config.get("quantization_config"), str(run.base))


def lay_out(run: "Run", source: "Merged", dtype: str) -> tuple[Tensor, ...]:
    """The tensors of a merged checkpoint: named, ordered and joined as the base's own files have them.

    Args:
        run: the run.
        source: its finished weights.
        dtype: ``f32``, ``f16`` or ``bf16``, of all that are no part left out of an export.

    Raises:
        MergeError: the adapter changes a part that is copied.
    """
    _check_possible(run, source)
    files, shapes = base_files(run), source.shapes()
    words = files.words if isinstance(files, Dequantized) else ()
    weights = spell(files.tensors, run.names, str(run.base), words=words).weights
    weights = {ours: weights[name] for ours, name in repeated(weights, run.layers).items()}
    stored: dict[str, dict[str, Weight]] = {}
    for ours, weight in weights.items():
        stored.setdefault(in_layer_of(weight.stored, ours), {})[ours] = weight
    tensors = []
    for name, made in stored.items():
        shape = files.tensors[next(iter(made.values())).stored].shape
        turned = is_turned(name, run.names)  # also where it was quantized, as a linear module
        tensors += _made_of(Tensor(name, shape, DTYPES[dtype], turned=turned), made, shapes)
    copied = tuple(start for starts in run.family.left_out.values() for start in starts)
    for name, one in files.tensors.items():
        if name not in stored and name.startswith(copied):
            tensors.append(Tensor(name, one.shape, DTYPES[dtype] if one.dtype in words else one.dtype))
    return (*tensors, *_beyond(set(shapes) - set(weights), shapes, run, DTYPES[dtype]))


def _check_possible(run: "Run", source: "Merged") -> None:
    """MergeError for what the base's own files and configuration have no place for."""
    if source.changes.left_out:
        raise MergeError(
            f"{run.adapters[0].weights}: {source.changes.left_out[0]} is of a part that is not merged "
            f"({', '.join(run.names.left_out)}; {len(source.changes.left_out)} such tensors): a merged checkpoint "
            "would hold that part untrained. Merge the run with PEFT; `ggufx export` leaves the part out."
        )


def _made_of(stored: Tensor, weights: Mapping[str, Weight], shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """A stored tensor as it is written; none for a head that is the embedding again."""
    if HEAD in weights and HEAD not in shapes:
        return []
    first = next(iter(weights.values()))
    if len(weights) == 1 and first.expert is None:
        (ours,) = weights
        shape = shapes[ours][::-1] if stored.turned else shapes[ours]
        return [replace(stored, shape=shape, parts=(Part(ours, 0, shapes[ours][0]),))]
    rows = stored.shape[-1 if first.turned or len(stored.shape) == 1 else -2]
    places = {ours: (weight.expert or 0) * rows + weight.first_row for ours, weight in weights.items()}
    parts = tuple(
        Part(ours, places[ours], shapes[ours][0], weights[ours].step) for ours in sorted(places, key=places.__getitem__)
    )
    made, expected = _covered(parts), prod(stored.shape[:-2]) * rows
    if made != list(range(expected)):
        raise MergeError(
            f"{stored.name}: has {expected} rows in all experts, the weights in it make {len(made)}, not each once. A "
            "merged checkpoint holds what the base's files hold: report this with the base's name."
        )
    return [replace(stored, parts=parts, turned=first.turned)]


def _covered(parts: Sequence[Part]) -> list[int]:
    """The rows of a tensor that its parts make, in order."""
    return sorted(chain.from_iterable(range(p.first_row, p.first_row + p.rows * p.step, p.step) for p in parts))


def _beyond(names: set[str], shapes: Mapping[str, tuple[int, ...]], run: "Run", dtype: str) -> list[Tensor]:
    """The head that training untied, which the base does not store. MergeError for any other weight."""
    others = sorted(names - {HEAD})
    if others:
        raise MergeError(
            f"{run.path}: {others[0]} and {len(others) - 1} more finished weights are not in the base's files, so a "
            "merged checkpoint has no place for them. `ggufx export` takes such a run."
        )
    return [Tensor(name, shapes[EMBEDDING], dtype, (Part(name, 0, shapes[EMBEDDING][0]),)) for name in names]


def in_shards(tensors: Sequence[Tensor], most: int) -> tuple[Shard, ...]:
    """The tensors in files of at most so many bytes of data, in their order; a tensor that is larger has its own."""
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.bytes > most:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.bytes
    count = len(groups)
    files = (
        [f"model-{k + 1:05}-of-{count:05}.safetensors" for k in range(count)] if count > 1 else ["model.safetensors"]
    )
    widest = [sorted(group, key=lambda tensor: -BYTES.get(tensor.dtype, 1)) for group in groups]
    return tuple(Shard(file, tuple(group)) for file, group in zip(files, widest, strict=True))


def index(shards: Sequence[Shard]) -> bytes:
    """The text of model.safetensors.index.json."""
    places = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    size = sum(tensor.bytes for shard in shards for tensor in shard.tensors)
    return _json({"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
