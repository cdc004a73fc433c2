"""The text that a file is measured on: the user's own, or the one that comes with the package."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from exporter.errors import EngineError

DEFAULT = "ggufx default"
CONTEXT = 512
ENOUGH = 64
Mode = Literal["default", "llama.cpp"]


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


def require_length(text: Text, tokenizer_json: Path, mode: Mode) -> None:
    """EngineError for a text with fewer tokens than one window takes (llama-perplexity wants two)."""
    from tokenizers import Tokenizer  # noqa: PLC0415  (slow to import)

    least = CONTEXT * 2 if mode == "llama.cpp" else CONTEXT
    if len(text.data) > ENOUGH * least:
        return  # no vocabulary has longer tokens than that on the average
    backend = Tokenizer.from_file(str(tokenizer_json))
    backend.no_truncation()  # saved by trainers with the tokenizer
    backend.no_padding()
    found = len(backend.encode(text.data.decode(), add_special_tokens=True).ids)
    if found < least - 1:
        raise EngineError(
            f"{text.name}: the evaluation text has {found} tokens; windows of {CONTEXT} need {least}. "
            "Give a longer one with --text, or none, for the text that comes with ggufx."
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: the evaluation text cannot be read: {error.strerror}. Mend --text.") from None
