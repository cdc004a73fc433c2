"""Stored tensors: safetensors in one file or in shards, or PyTorch's .bin files; checked against each other."""

import json
import os
import pickle
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import SourceError
from exporter.paths import require_utf8

if TYPE_CHECKING:
    import torch

FLOATS = ("F32", "F16", "BF16")
CAST = ("F64", "F8_E4M3", "F8_E5M2")
"""What an adapter may be stored in as well: PEFT casts it to float32 when it loads it."""
TORCH_NAMES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.uint8": "U8",
    "torch.int8": "I8",
    "torch.int32": "I32",
    "torch.int64": "I64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}
# What torch raises for a damaged file: its pickle is run, by a reader that knows tensors alone, up to what is damaged.
DAMAGED = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, MemoryError, pickle.UnpicklingError, struct.error),
)
SHARD = re.compile(r"-\d+-of-\d+$")
Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Within:
    """A matrix of one expert's within a stored tensor of (experts, rows, columns): that tensor's name, and where."""

    stored: str
    expert: int
    first_row: int


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in a file; dtype is safetensors' name of it."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    within: Within | None = None


class TensorFiles:
    """The tensors of a model or adapter folder, by stored name. Holds its files open, mapped into memory."""

    def __init__(self, tensors: Mapping[str, Stored], turned: Collection[str] = ()) -> None:
        """``turned`` are matrices that are given turned over: their columns as rows."""
        over = {name: replace(tensors[name], shape=tensors[name].shape[::-1]) for name in turned}
        self.tensors = {**tensors, **over}
        self._turned = frozenset(turned)
        self._open: dict[Path, Any] = {}

    def files(self) -> list[Path]:
        """The files that hold them, in order."""
        return sorted({stored.file for stored in self.tensors.values()})

    def read(self, name: str, index: Index) -> "torch.Tensor":
        """A part of a tensor in float32; a view of the mapped file where it is stored so."""
        import torch  # noqa: PLC0415  (slow to import; a plan needs none of it)

        return self.take(name, index).to(torch.float32)

    def take(self, name: str, index: Index) -> "torch.Tensor":
        """A part of a tensor, all of it without an index, in the type it is stored in."""
        if name in self._turned:
            rows, columns = (*index, slice(None), slice(None))[:2]
            return self._take(name, (columns, rows)).T
        return self._take(name, index)

    def _take(self, name: str, index: Index) -> "torch.Tensor":
        file, within = self.tensors[name].file, self.tensors[name].within
        if within is not None:
            rows, *columns = index or (slice(None),)
            here = range(within.first_row, within.first_row + self.tensors[name].shape[0])[rows]
            place = slice(here.start, here.stop) if isinstance(here, range) else here
            name, index = within.stored, (within.expert, place, *columns)
        if file.suffix == ".bin":
            part: torch.Tensor = self._bin(file)[name][index]
        else:
            part = self._safetensors(file).get_slice(name)[index or ...]
        return part

    def _safetensors(self, file: Path) -> Any:  # noqa: ANN401  (safetensors has no public type)
        from safetensors import safe_open  # noqa: PLC0415

        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file]

    def _bin(self, file: Path) -> Mapping[str, "torch.Tensor"]:
        if file not in self._open:
            self._open[file] = _load_bin(file)
        tensors: Mapping[str, torch.Tensor] = self._open[file]
        return tensors


def open_model(folder: Path) -> TensorFiles:
    """The tensors of a model folder. SourceError for a missing shard, a truncated file, or an index that disagrees."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin"), ("consolidated", "safetensors")):
        index = folder / f"{stem}.{suffix}.index.json"
        single = folder / f"{stem}.{suffix}"
        if index.exists():
            tensors = _indexed(index)
            if single.exists() and single not in {stored.file for stored in tensors.values()}:
                raise SourceError(
                    f"{folder}: holds {single.name}, and {index.name} that names other files: two saves in one folder. "
                    "Remove the older one."
                )
            return TensorFiles(tensors)
        if single.exists():
            return TensorFiles(_headers(single))
        shards = sorted(file for file in folder.glob(f"{stem}-*.{suffix}") if SHARD.search(file.stem))
        if shards:
            return TensorFiles(_shards(shards))
    raise SourceError(f"{folder}: holds no weights. Expected model.safetensors, its shards, or pytorch_model.bin.")


def open_file(file: Path, *, integers: bool = False) -> TensorFiles:
    """The tensors of one file. SourceError for one of a type that is not read: of integers, unless asked for."""
    tensors = _headers(file)
    for name, stored in tensors.items():
        if stored.dtype not in (*FLOATS, *CAST) and not integers:
            raise SourceError(
                f"{file}: {name} is stored as {stored.dtype}; only {', '.join((*FLOATS, *CAST))} are read. Save it in "
                "float32."
            )
    return TensorFiles(tensors)


def _shards(files: list[Path]) -> dict[str, Stored]:
    """The tensors of numbered shards without an index; SourceError where one is missing or a name comes twice."""
    expected = int(re.findall(r"\d+", files[0].stem)[-1])
    if len(files) != expected:
        raise SourceError(
            f"{files[0].parent}: {len(files)} of {expected} shards are there (the first is {files[0].name}). "
            "Copy the missing ones."
        )
    return _once(files)


def _once(files: list[Path]) -> dict[str, Stored]:
    """The tensors of several files; SourceError where a name comes twice."""
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, stored in _headers(file).items():
            if name in tensors:
                raise SourceError(
                    f"{file}: {name} is stored in {tensors[name].file.name} too. Remove the stray shard, or copy the "
                    "shards again: the two may hold different numbers."
                )
            tensors[name] = stored
    return tensors


def _indexed(index: Path) -> dict[str, Stored]:
    """The tensors an index names; SourceError where files, headers and index do not agree."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {name: os.path.normpath(file) for name, file in named.items()}
        files = {index.parent / file for file in places.values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise SourceError(f"{index}: is no index of shards ({error!r}). Restore it from the training run.") from error
    missing = sorted(file.name for file in files if not os.path.lexists(file))  # which takes any name, however long
    if missing:
        raise SourceError(f"{index}: names {', '.join(missing)}, which is not in the folder. Copy the missing shards.")
    found = _once(sorted(files))
    wrong = [name for name, file in places.items() if name not in found or found[name].file.name != file]
    extra = sorted(set(found) - set(places))
    if wrong or extra:
        kind = "is not in the shard the index names" if wrong else "is in a shard, but not in the index"
        raise SourceError(
            f"{index}: {(wrong or extra)[0]} {kind} ({len(wrong) + len(extra)} such). The shards are of another save."
        )
    return found


def _headers(file: Path) -> dict[str, Stored]:
    """Names, shapes and types of the tensors of one file; no tensor is read."""
    require_utf8(file, SourceError, "Rename the folder.")
    if not file.is_file():
        raise SourceError(f"{file}: is no file, expected one of tensors. Copy it again, or save the model again.")
    if file.suffix == ".bin":
        return {
            name: Stored(name, file, tuple(value.shape), TORCH_NAMES.get(str(value.dtype), str(value.dtype)))
            for name, value in _load_bin(file).items()
        }
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(file, framework="numpy") as opened:
            return {
                name: Stored(name, file, tuple(part.get_shape()), part.get_dtype())
                for name in opened.keys()  # noqa: SIM118  (no mapping)
                for part in (opened.get_slice(name),)
            }
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise SourceError(
            f"{file}: is no whole safetensors file: {error} ({size:,} bytes). Copy it again, or save the model again."
        ) from error


def _load_bin(file: Path) -> Mapping[str, "torch.Tensor"]:
    """The tensors of a PyTorch file, mapped; nothing but tensors is ever unpickled."""
    import torch  # noqa: PLC0415

    try:
        try:
            value = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
            value = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise SourceError(
            f"{file}: cannot be read as tensors alone ({str(error).partition(chr(10))[0]}). Save it as safetensors."
        ) from error
    if not isinstance(value, dict) or not all(isinstance(part, torch.Tensor) for part in value.values()):
        raise SourceError(f"{file}: holds something else than named tensors. Save the model as safetensors.")
    for name, part in value.items():
        if not isinstance(name, str) or not _is_plain(part):
            raise SourceError(
                f"{file}: {name!r} is no plain tensor with a name (sparse, nested, quantized, or without its numbers). "
                "Save the model as safetensors."
            )
    return value


def _is_plain(tensor: "torch.Tensor") -> bool:
    """Whether a tensor holds its numbers, one by one."""
    import torch  # noqa: PLC0415

    strided = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    return strided and not tensor.is_meta
