"""The text that a file is measured on: the user's own, or the one that comes with the package."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from exporter.errors import EngineError

DEFAULT = "ggufx default"


@dataclass(frozen=True)
class Text:
    """An evaluation text: what it is called in a report, its bytes as they are, and their SHA-256."""

    name: str
    data: bytes
    sha256: str


def read_text(path: Path | None = None) -> Text:
    """The text of a file; without one the package's own: about 140 KB, all in the public domain.

    That one has three excerpts of Tolstoy's War and Peace (English), one of Shakespeare's plays, and the beginning of
    the Universal Declaration of Human Rights in French, Spanish, Russian, Arabic, Hindi, Chinese and Japanese. The
    books' excerpts lie in the last tenth of the files that the example run was trained on, which its training left out.
    EngineError for a file that cannot be read, or that is no UTF-8 text.
    """
    if path is None:
        name, data = DEFAULT, resources.files(__package__).joinpath("default.txt").read_bytes()
    else:
        name, data = str(path), _read(path)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EngineError(
            f"{name}: the evaluation text is not UTF-8: byte {error.start} is {data[error.start]:#04x}. "
            "Convert it, or give another with --text."
        ) from None
    return Text(name, data, hashlib.sha256(data).hexdigest())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: the evaluation text cannot be read: {error.strerror}. Mend --text.") from None
