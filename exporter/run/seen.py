"""The files of a run as they were before they were read: a trainer may still write them."""

from itertools import chain
from pathlib import Path

from exporter.tokenizer.files import NAMED_TEMPLATES

Identity = tuple[int, int]
"""Of a file: its bytes, and when they were changed. (Its number is not told: some mounted disks give new ones.)"""


def identity(file: Path) -> Identity | None:
    """What tells a file from any other, and from itself before a change; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def seen_in(*folders: Path) -> dict[Path, Identity]:
    """The files of folders, named templates too, each as it is now."""
    patterns = ("*", f"{NAMED_TEMPLATES}/*")
    files = chain.from_iterable(folder.glob(pattern) for folder in set(folders) for pattern in patterns)
    return {file: found for file in files if (found := identity(file)) is not None}
