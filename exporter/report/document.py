"""report.json as a value: checked, read and written."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, NotRequired, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from exporter.errors import OutputError, ReportError
from exporter.report.html import render_html
from exporter.report.markdown import render_markdown
from exporter.report.schema import SCHEMA, Document

NAME = "report.json"
SHOWN = 60
SCALARS: dict[object, str] = {str: "a string", int: "a whole number", float: "a finite number", NoneType: "null"}


def check_document(document: object, where: str) -> Document:
    """Return ``document``, known to have the shape of :mod:`exporter.report.schema`.

    Args:
        document: anything that JSON can hold.
        where: what the messages call it, such as the path of the file.

    Raises:
        ReportError: it is no report, is of another schema, lacks a field, or has one of another type.
    """
    if not isinstance(document, dict) or "schema" not in document:
        raise ReportError(
            f"{where}: this is not a report of ggufx: found {_shown(document)}, expected an object with the field "
            f'"schema". Give the folder that an export wrote, or its {NAME}.'
        )
    found = document["schema"]
    if isinstance(found, bool) or found != SCHEMA:
        raise ReportError(
            f"{where}: schema: found {_shown(found)}, expected {SCHEMA}. "
            "Another version of ggufx wrote this report: use that one, or export again."
        )
    _check(document, Document, where, "")
    return cast("Document", document)


def read_report(folder_or_file: Path) -> Document:
    """Return the report of an export: of its folder, or the file itself.

    Raises:
        ReportError: there is none, or it is not JSON, or not a report.
    """
    path = folder_or_file / NAME if folder_or_file.is_dir() else folder_or_file
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise ReportError(
            f"{path}: there is no such file: expected the {NAME} of an export. Give the folder that "
            "`ggufx export` wrote."
        ) from error
    except OSError as error:
        raise ReportError(
            f"{path}: the report cannot be read: {error.strerror}. Check the path and its rights."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{path}: found text that is not JSON ({error}), expected the {NAME} of an export. "
            "It was changed or cut short: restore it, or export again."
        ) from error
    return check_document(document, str(path))


def write_report(document: Document, folder: Path) -> list[Path]:
    """Write report.json, report.md and report.html into ``folder``; return their paths in that order.

    All three are rendered before the first is written, and each appears whole or not at all.

    Raises:
        ReportError: ``document`` has not the shape of a report, or holds a number that is not finite.
        OutputError: a file cannot be written.
    """
    check_document(document, NAME)
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ReportError(
            f"{NAME}: a field beside the known ones cannot be written: {error}; expected finite numbers, strings, "
            "lists and objects. Leave out what was not measured."
        ) from error
    texts = {NAME: text + "\n", "report.md": render_markdown(document), "report.html": render_html(document)}
    return [_replace(folder / name, content) for name, content in texts.items()]


def _replace(path: Path, text: str) -> Path:
    """Write ``text`` as the whole of ``path``, flushed to disk, through a file beside it; return ``path``."""
    partial = path.with_name(f".ggufx-{path.name}.partial")  # a name that no file of a user's has
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb") as stream:  # x: a link of this name is never followed to a file elsewhere
            # A file name that is not UTF-8 holds lone surrogates: as \udcxx they are valid JSON, and visible elsewhere.
            stream.write(text.encode("utf-8", errors="backslashreplace"))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: the report cannot be written: {error.strerror}. Make room, or give another folder with --out."
        ) from error
    return path


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check(value: object, kind: object, where: str, field: str) -> None:
    """Stop where ``value`` is not of type ``kind``; ``field`` is its place in the document, such as levels[0].kld."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        _check_fields(value, cast("type", kind), where, field)
    elif origin in {Union, UnionType}:
        _check(value, NoneType if value is None else arguments[0], where, field)
    elif origin is Literal:
        if value not in arguments:
            raise _mismatch(value, "one of " + ", ".join(map(repr, arguments)), where, field)
    elif origin is list:
        for index, item in enumerate(cast("list[object]", _expect(value, list, where, field))):
            _check(item, arguments[0], where, f"{field}[{index}]")
    elif origin is dict:
        for name, item in cast("dict[object, object]", _expect(value, dict, where, field)).items():
            _check(item, arguments[1], where, f"{field}.{name}")
    elif not _is_scalar(value, kind):
        raise _mismatch(value, SCALARS[kind], where, field)


def _check_fields(value: object, kind: type, where: str, field: str) -> None:
    """Stop where an object lacks a field of the TypedDict ``kind``, or one of its fields does not fit."""
    fields = cast("dict[str, object]", _expect(value, dict, where, field))
    for name, hint in get_type_hints(kind, include_extras=True).items():
        place = f"{field}.{name}" if field else name
        optional = get_origin(hint) is NotRequired
        if name in fields:
            _check(fields[name], get_args(hint)[0] if optional else hint, where, place)
        elif not optional:
            raise ReportError(
                f"{where}: {place}: found no such field, expected {_expected(hint)}. "
                "The report was changed or cut short: restore it, or export again."
            )


def _expected(kind: object) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    return SCALARS.get(kind, "a list" if get_origin(kind) is list else "an object")


def _expect(value: object, container: type, where: str, field: str) -> object:
    if not isinstance(value, container):
        raise _mismatch(value, "a list" if container is list else "an object", where, field)
    return value


def _is_scalar(value: object, kind: object) -> bool:
    if kind is float:
        # JSON writes 1.0 as 1 in some programs; true is an int to Python, but no number.
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, cast("type", kind)) and not (kind is int and isinstance(value, bool))


def _mismatch(value: object, expected: str, where: str, field: str) -> ReportError:
    return ReportError(
        f"{where}: {field or 'the document'}: found {_shown(value)}, expected {expected}. "
        "A field that was not measured is left out, or null."
    )


def _shown(value: object) -> str:
    """Return ``value`` as a short piece of a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
