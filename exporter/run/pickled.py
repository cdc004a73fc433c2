"""``training_args.bin`` without unpickling: which class its object is of."""

import pickletools
import zipfile
from pathlib import Path

LARGEST = 2**20
"""Bytes of the pickle that are read; the Trainer's own has a few thousand."""
OPENING = 8
"""Opcodes that are looked at: those of an object's class come first."""


def class_of(file: Path) -> str | None:
    """``module.Class`` of the object that ``torch.save`` stored; None where that is not certain.

    Opcodes are decoded, none is executed: protocol 2, torch's own, names the class before anything else, and makes
    the object of it with nothing in between.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            inner = next((one for one in archive.infolist() if one.filename.endswith("/data.pkl")), None)
            if inner is None or inner.compress_type != zipfile.ZIP_STORED:  # torch compresses nothing
                return None
            if max(inner.file_size, inner.compress_size) > LARGEST:
                return None
            data = archive.read(inner)
        opening = []
        for operation, argument, _ in pickletools.genops(data):
            if not operation.name.endswith("PUT"):  # what is kept for later changes nothing now
                opening.append((operation.name, argument))
            if len(opening) == OPENING:
                break
    except (OSError, ValueError, IndexError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return None
    names = [name for name, _ in opening]
    if names[:4] != ["PROTO", "GLOBAL", "EMPTY_TUPLE", "NEWOBJ"]:
        return None
    return str(opening[1][1]).replace(" ", ".")
