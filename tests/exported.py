"""A run's files, written as an export writes them, without proof and measuring."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, ReaderField

from exporter.pipeline import Options, prepare
from exporter.plan import Plan
from exporter.profiles import load_profile
from exporter.writer import write

COMMAND = [sys.executable, "-c", "from exporter.cli import main; main()"]
"""``ggufx`` in a process of its own."""


def written(
    run: Path, out: Path, levels: Sequence[str] = ("f32",), *, threads: int = 1
) -> tuple[Plan, dict[str, Path]]:
    """The plan of a run, and its file of each level, in ``out``."""
    _, source, plan = prepare(str(run), [load_profile(level) for level in levels], Options(verify=False))
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{level}.gguf" for level in levels]
    write(plan, source, files, threads=threads, progress=lambda _done, _total: None)
    return plan, dict(zip(levels, files, strict=True))


def planned(run: Path, *levels: str, **options: Any) -> Plan:  # noqa: ANN401  (options, by name)
    """The plan of a run."""
    return prepare(str(run), [load_profile(level) for level in levels], Options(**{"verify": False} | options))[2]


def change_json(file: Path, **fields: object) -> None:
    """Set fields of a JSON file; None removes one."""
    document = json.loads(file.read_text(encoding="utf-8")) | fields
    kept = {key: value for key, value in document.items() if value is not None}
    file.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")


def tensors(file: Path) -> list[tuple[str, str, bytes]]:
    """Name, type and bytes of each tensor, in the file's order."""
    return [(t.name, t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(file).tensors]


def kind_and_value(field: ReaderField) -> tuple[str, Any]:
    """A metadata value with its GGUF type, ``STRING[]`` for an array of texts."""
    if field.types[0] == GGUFValueType.ARRAY:
        return f"{field.types[1].name}[]", field.contents()
    return field.types[0].name, field.contents()


def metadata(reader: GGUFReader) -> Mapping[str, tuple[str, Any]]:
    """A file's keys with their GGUF types and values."""
    return {key: kind_and_value(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def changed(file: Path, out: Path, tensors: Mapping[str, Any] | None = None, **values: object) -> Path:
    """A copy of a file with other keys (dots are double underscores), and other tensors (None: without it)."""
    reader = GGUFReader(file)
    other = {key.replace("__", "."): value for key, value in values.items()}
    writer = GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        value = other.get(key, kind_and_value(field)[1])
        writer.add_key_value(key, value, kind, field.types[1] if kind == gguf.GGUFValueType.ARRAY else None)
    for key in other.keys() - reader.fields.keys():
        writer.add_string(key, str(other[key]))
    for tensor in reader.tensors:
        data = (tensors or {}).get(tensor.name, np.array(tensor.data))
        if data is not None:
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
