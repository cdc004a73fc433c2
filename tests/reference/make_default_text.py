"""How exporter/verify/default.txt was made: ``python tests/reference/make_default_text.py TEXTS`` writes it again.

TEXTS is a folder with war-and-peace.txt (Tolstoy, translated by L. and A. Maude), tinyshakespeare.txt (Shakespeare) and
multilingual_udhr32.txt (Universal Declaration of Human Rights, NLTK's ``udhr2``), all in the public domain. The two
books' excerpts lie in the last tenth of each file: the example model was not trained on that tenth.
"""

import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "exporter" / "verify" / "default.txt"
CHAPTERS = (
    ("CHAPTER XIII\n\nIn external ways Pierre", 40_000),
    ("CHAPTER IX\n\nIt was the eve of St. Nicholas", 35_000),
    ("CHAPTER II\n\nWhat force moves the nations?", 15_000),
)
SHAKESPEARE, SPEECHES = 30_000, 36_000  # bytes into the last tenth, and bytes taken
TITLES = (
    "Déclaration universelle des droits de l\u2019homme",
    "Declaración Universal de Derechos Humanos",
    "Всеобщая декларация прав человека",
    "الإعلان العالمي لحقوق الإنسان",
    "मानव अधिकारों की सार्वभौम घोषणा",
    "世界人权宣言",
    "『世界人権宣言』",
)
DECLARATION = 2_500  # bytes taken of each


def last_tenth(path: Path) -> str:
    """The text that training left out."""
    data = path.read_bytes()
    return data[len(data) - len(data) // 10 :].decode("utf-8", "ignore")


def excerpt(text: str, start: int, size: int) -> str:
    """At most ``size`` bytes of UTF-8 from ``start``, up to the end of a line."""
    cut = text[start:].encode()[:size].decode("utf-8", "ignore")
    return cut[: cut.rindex("\n") + 1].strip("\n") + "\n"


def main(texts: Path) -> None:
    """Write the text."""
    tolstoy = last_tenth(texts / "war-and-peace.txt")
    plays = last_tenth(texts / "tinyshakespeare.txt")
    rights = (texts / "multilingual_udhr32.txt").read_text(encoding="utf-8")
    parts = [excerpt(tolstoy, tolstoy.index(start), size) for start, size in CHAPTERS]
    parts.append(excerpt(plays, plays.index("\n\n", SHAKESPEARE) + 2, SPEECHES))
    parts += [excerpt(rights, rights.index(title), DECLARATION) for title in TITLES]
    OUT.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
