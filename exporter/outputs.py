"""Files that appear whole or not at all, and the hashes they are told apart by."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import OutputError

PARTIAL = ".partial"
BLOCK = 1 << 22


@contextmanager
def replaced_when_done(files: Sequence[Path], *, overwrite: bool) -> Iterator[list[Path]]:
    """The partial files to write; they get their names when the block ends, all of them, or are removed if it fails.

    OutputError for a file that exists, unless it may be overwritten.
    """
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise OutputError(
            f"{there[0]}: exists already{f', and {len(there) - 1} more' if there[1:] else ''}. "
            "Give --overwrite to replace it, or another --out."
        )
    partial = [file.with_name(file.name + PARTIAL) for file in files]
    try:
        yield partial
        for whole, file in zip(partial, files, strict=True):
            whole.replace(file)
    except BaseException:
        for file in partial:
            file.unlink(missing_ok=True)
        raise
    for folder in {file.parent for file in files}:
        _flush(folder)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder for temporary files, removed with what is in it. OutputError where none can be made."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".ggufx-", dir=parent))
    except OSError as error:
        raise OutputError(f"{parent}: cannot be written to ({error.strerror}). Give another --scratch.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder that can be written to, for one export at a time; where that fails, no empty folder is left.

    OutputError where it cannot be written to, or another export is at work there.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror}). Give another --out.") from error
    try:
        with _locked(folder):
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


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def folder_hash(files: Sequence[Path]) -> str:
    """SHA-256 of the sorted lines ``<sha256>  <name>`` of a folder's files."""
    lines = sorted(f"{file_hash(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
