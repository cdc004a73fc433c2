"""Files that appear whole or not at all, and the hashes they are told apart by."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from exporter.errors import OutputError
from exporter.paths import require_utf8

PARTIAL = ".partial"
SCRATCH = ".ggufx-"
OURS = ".ggufx-scratch"
"""A file in each of our scratch folders: a folder without it is a user's, whatever its name."""
WRITTEN = ".ggufx-partial.json"
"""A file with the names of the partial files that are being written beside it: others are a user's."""
BLOCK = 1 << 22


@contextmanager
def replaced_when_done(files: Sequence[Path], *, overwrite: bool) -> Iterator[list[Path]]:
    """The partial files to write; they get their names when the block ends, all of them, or are removed if it fails.

    A killed export leaves them, and a list of them, by which the next one removes them. OutputError for a file that
    exists, or a user's own of a partial file's name, unless it may be overwritten.
    """
    there = require_absent(files, overwrite=overwrite)
    partial = [file.with_name(file.name + PARTIAL) for file in files]
    folders = {file.parent for file in files}
    for left in chain.from_iterable(map(_left, folders)):
        left.unlink(missing_ok=True)
    require_absent(partial, overwrite=overwrite)
    try:
        for folder in folders:
            _list(folder, [file.name for file in partial if file.parent == folder])
        yield partial
        _name(partial, files)
    except BaseException:
        for file in {*partial, *files} - set(there):
            file.unlink(missing_ok=True)
        raise
    finally:
        for folder in folders:
            (folder / WRITTEN).unlink(missing_ok=True)
    for folder in folders:
        _flush(folder)


def require_absent(files: Sequence[Path], *, overwrite: bool) -> list[Path]:
    """The files that exist; OutputError where there are any, unless they may be overwritten."""
    there = [file for file in files if os.path.lexists(file)]
    if there and not overwrite:
        raise OutputError(
            f"{there[0]}: exists already{f', and {len(there) - 1} more' if there[1:] else ''}. "
            "Give --overwrite to replace it, or another --out."
        )
    return there


def require_files(files: Sequence[Path]) -> None:
    """OutputError where a file, or its partial file, cannot be made under its name."""
    for file in (*files, *(whole.with_name(whole.name + PARTIAL) for whole in files)):
        try:
            mode = file.lstat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(
                f"{file}: no file can have this name ({error.strerror}). Rename the run's folder, which it is made "
                "of, or give another --out."
            ) from error
        if stat.S_ISDIR(mode):
            raise OutputError(f"{file}: is a folder, expected a file or nothing. Move it away, or give another --out.")


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder for temporary files, removed with what is in it. OutputError where none can be made."""
    require_utf8(parent, OutputError, "Rename the folder, or give another --scratch.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
    except OSError as error:
        raise OutputError(f"{parent}: cannot be written to ({error.strerror}). Give another --scratch.") from error
    try:
        with _locked(folder):  # so that no other export takes it for one that was left behind
            (folder / OURS).touch()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder that can be written to, for one export at a time; where that fails, no empty folder is left.

    OutputError where it cannot be written to, its path is not in UTF-8, or another export is at work there.
    """
    require_utf8(folder, OutputError, "Rename the folder, or give another --out.")
    new = not os.path.lexists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror}). Give another --out.") from error
    try:
        with _locked(folder):
            _remove_left(folder)
            yield
    except BaseException:
        if new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def require_space(folder: Path, needed: int) -> None:
    """OutputError where a folder's disk has less room than needed, in bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free. "
            "Free some space, ask for fewer levels, or give another --out or --scratch."
        )


def require_unchanged(file: Path, size: int, sha256: str | None) -> None:
    """OutputError where a file that a report lists is gone, or is another one by now."""
    there = file.is_file()
    if not there or file.stat().st_size != size or file_hash(file) != sha256:
        raise OutputError(
            f"{file}: report.json lists it, but it {'was changed since' if there else 'is not there'}. Put it back, "
            "make its level again as well with --overwrite, or give another --out."
        )


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal. OutputError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise OutputError(
            f"{file}: cannot be read any more, to hash it ({error.strerror}). Put it back, or copy it again, and run "
            "again."
        ) from error
    return digest.hexdigest()


def folder_hash(files: Sequence[Path]) -> str:
    """SHA-256 of the sorted lines ``<sha256>  <name>`` of a folder's files."""
    lines = sorted(f"{file_hash(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _name(partial: Sequence[Path], files: Sequence[Path]) -> None:
    """Give finished files their names."""
    for whole, file in zip(partial, files, strict=True):
        try:
            whole.replace(file)
        except OSError as error:
            raise OutputError(f"{file}: cannot be given its name ({error.strerror}). Give another --out.") from error


def _remove_left(folder: Path) -> None:
    """Remove the scratch folders that killed exports left, known by a file in them; one that is in use is locked."""
    for left in (mark.parent for mark in folder.glob(f"{SCRATCH}*/{OURS}")):
        with suppress(OutputError, OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)


def _list(folder: Path, names: Sequence[str]) -> None:
    """Say in a folder which partial files are ours. OutputError where that cannot be written."""
    listed = folder / WRITTEN
    try:
        listed.unlink(missing_ok=True)
        with listed.open("x", encoding="utf-8") as stream:  # x: a link of this name is never followed
            json.dump(names, stream)
    except OSError as error:
        raise OutputError(f"{listed}: cannot be written ({error.strerror}). Give another --out.") from error


def _left(folder: Path) -> list[Path]:
    """The partial files of a folder that a killed export says it was writing."""
    try:
        names = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    ours = names if isinstance(names, list) else []
    return [file for file in folder.glob(f"*{PARTIAL}") if file.name in ours and not file.is_dir()]


def _flush(folder: Path) -> None:
    """Have a folder's new names reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other exports out of a folder. OutputError where one is at work there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OutputError(f"{folder}: another export is writing to it. Wait for it, or give another --out.") from None
    try:
        yield
    finally:
        os.close(handle)


def shards(file: Path) -> list[Path]:
    """A file's shards that are there, in llama.cpp's naming, when it is the first of some; else the file alone."""
    first = re.fullmatch(r"(.+)-00001-of-(\d{5})\.gguf", file.name)
    if first is None:
        return [file]
    names = (f"{first[1]}-{k + 1:05}-of-{first[2]}.gguf" for k in range(int(first[2])))
    return [file.with_name(name) for name in names if file.with_name(name).exists()]


def gguf_facts(file: Path) -> tuple[str, float | None]:
    """What a file calls its own level, and its bits per weight.

    The file's name, and None, where it does not say, or cannot be read: llama.cpp then says why.
    """
    from gguf import GGUFReader, LlamaFileType  # noqa: PLC0415  (slow to import)

    try:
        parts = [GGUFReader(shard) for shard in shards(file)]
        field = parts[0].get_field("general.file_type")
    except (ValueError, IndexError, KeyError, OSError):
        return file.stem, None
    tensors = [tensor for part in parts for tensor in part.tensors]
    weights = sum(int(tensor.n_elements) for tensor in tensors)
    number = int(field.contents()) if field is not None else -1
    known = {int(kind): kind.name.lower().removeprefix("mostly_").removeprefix("all_") for kind in LlamaFileType}
    bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors) / weights if weights else None
    return str(known.get(number, file.stem)), bits
