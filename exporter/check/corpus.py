"""The texts that the token ids of a finished file are proved on: a corpus of many scripts, and random ones."""

import random
import unicodedata
from collections.abc import Iterator, Sequence
from importlib import resources

from exporter.tokenizer.sample import SAMPLE

SEED = 20_260_115
RANDOM = 1_000
LONGEST = 40
"""Characters of a random text."""
WORDS = 8
"""Texts of made-up words for each script."""
ALONE = 256
SCRIPTS = {
    "Latin": ((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0x250)), "Cyrillic": ((0x400, 0x500),), "Greek": ((0x386, 0x3CF),),
    "Polytonic Greek": ((0x1F00, 0x2000),), "Armenian": ((0x531, 0x588),), "Georgian": ((0x10D0, 0x10F7),),
    "Hebrew": ((0x5B0, 0x5BE), (0x5D0, 0x5EB)), "Arabic": ((0x621, 0x653), (0x671, 0x6D4)),
    "Syriac": ((0x710, 0x74B),), "Thaana": ((0x780, 0x7B1),), "Devanagari": ((0x901, 0x950), (0x966, 0x970)),
    "Bengali": ((0x981, 0x9CE), (0x9E6, 0x9F0)), "Gurmukhi": ((0xA02, 0xA4E), (0xA66, 0xA75)),
    "Gujarati": ((0xA81, 0xACE), (0xAE6, 0xAF0)), "Oriya": ((0xB01, 0xB4E), (0xB66, 0xB70)),
    "Tamil": ((0xB82, 0xBCE), (0xBE7, 0xBF0)), "Telugu": ((0xC01, 0xC4E), (0xC66, 0xC70)),
    "Kannada": ((0xC82, 0xCCE), (0xCE6, 0xCF0)), "Malayalam": ((0xD02, 0xD4E), (0xD66, 0xD70)),
    "Sinhala": ((0xD82, 0xDDF),), "Thai": ((0xE01, 0xE3B), (0xE40, 0xE5A)), "Lao": ((0xE81, 0xEDA),),
    "Tibetan": ((0xF20, 0xF2A), (0xF40, 0xF6A), (0xF71, 0xF7F)), "Myanmar": ((0x1000, 0x104A),),
    "Ethiopic": ((0x1200, 0x135B),), "Cherokee": ((0x13A0, 0x13F5),), "Canadian Aboriginal": ((0x1401, 0x166D),),
    "Ogham": ((0x1681, 0x169B),), "Runic": ((0x16A0, 0x16EB),), "Khmer": ((0x1780, 0x17D3), (0x17E0, 0x17EA)),
    "Mongolian": ((0x1810, 0x181A), (0x1820, 0x1878)), "Hangul": ((0xAC00, 0xD7A4),), "Jamo": ((0x1100, 0x1113),),
    "Hiragana": ((0x3041, 0x3097),), "Katakana": ((0x30A1, 0x30FB),), "Bopomofo": ((0x3105, 0x312D),),
    "Han": ((0x4E00, 0x9FA6),), "rare Han": ((0x3400, 0x4DB6), (0x20000, 0x2A6D7)), "Yi": ((0xA000, 0xA48D),),
    "Braille": ((0x2801, 0x2900),), "Gothic": ((0x10330, 0x1034B),), "Deseret": ((0x10400, 0x10426),),
    "letters of mathematics": ((0x1D400, 0x1D7CA),), "full width": ((0xFF01, 0xFFBF),),
}  # fmt: skip
"""Code points of each script, in ranges; those that Unicode 3.2 had, whose classes every library agrees on."""
EMOJI = ((0x1F300, 0x1F321), (0x1F400, 0x1F43F), (0x1F601, 0x1F641), (0x1F680, 0x1F6A5), (0x2600, 0x2614))
SPACES = (" ", "\t", "\n", "\r", "\r\n", "\u00a0", "\u2003", "\u200b", "\u2028", "\u3000", "\ufeff", "\x0b", "\x0c")
ASSIGNED = ((0x20, 0x3000), (0x3001, 0xD7A4), (0xF900, 0xFFFE), (0x10300, 0x10450), (0x1D000, 0x1D800), *EMOJI)
UNUSED = frozenset(("Cn", "Cs", "Co"))


def corpus() -> tuple[str, ...]:
    """More than a thousand different texts: sentences, made-up words of each script, code, spaces, digits, emoji."""
    lines = resources.files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8").split("\n")[:-1]
    spaced = [f" {line}" for line in lines[::2]] + [f"{line}\n" for line in lines[1::4]]
    raised = [line.upper() for line in lines[:60]] + ["\n\n".join(lines[i : i + 3]) for i in range(0, len(lines), 9)]
    parts = (SAMPLE, lines, spaced, raised, _spaces(), _digits(), _emoji(), _words())
    return tuple(dict.fromkeys(text for part in parts for text in part))


def random_texts(count: int = RANDOM, seed: int = SEED) -> tuple[str, ...]:
    """Random Unicode texts, the same for a seed on every machine: any characters, one block's, and ASCII, mixed."""
    dice = random.Random(seed)  # noqa: S311  (no secrets)
    pool = [chr(code) for code in _codes(ASSIGNED)]
    made: dict[str, None] = {}
    while len(made) < count:
        made[_random(dice, pool)] = None
    return tuple(made)


def around(added: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """Each added token, by eights, between words and spaces; the first ones, and those that strip, alone."""
    yield from (text for k, (text, strips) in enumerate(added) if strips or k < ALONE)
    plain = [text for text, strips in added if not strips]
    for start in range(0, len(plain), 8):
        some = plain[start : start + 8]
        yield "word".join(["", *some, ""])
        yield f"see {' '.join(some)} and \nend"
        yield "".join(some)


def _words() -> Iterator[str]:
    """Made-up words of each script, of any of its characters in any order."""
    for name, ranges in SCRIPTS.items():
        dice = random.Random(name)  # noqa: S311
        pool = [chr(code) for code in _codes(ranges)]
        for _ in range(WORDS):
            yield " ".join("".join(dice.choices(pool, k=dice.randint(1, 8))) for _ in range(dice.randint(2, 6)))


def _spaces() -> Iterator[str]:
    """Runs of each kind of space, alone, before a word, between words, and mixed."""
    for space in SPACES:
        for count in (1, 2, 3, 4, 7, 8, 16, 31):
            yield f"{'a' if count % 2 else ''}{space * count}b"
        yield f"end{space}"
        yield f"x {space} y{space}\n z"
    for count in range(1, 20):
        yield " " * count
        yield "\n" * count + " " * count + "\t" * (count % 4) + "if x:"


def _digits() -> Iterator[str]:
    """Numbers of every length, with signs and separators, and the digits of other scripts."""
    for count in range(1, 21):
        number = "31415926535897932384"[:count]
        yield number
        yield f"n={number}, -{number}.{number}% {number}x{number}"
    for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xBE6, 0xE50, 0x1040, 0x17E0, 0xFF10, 0x1D7CE):
        yield "".join(chr(zero + k) for k in (1, 2, 3, 4, 5, 9))


def _emoji() -> Iterator[str]:
    """Emoji one by one and in rows, with skin tones, joined, and flags."""
    found = [chr(code) for code in _codes(EMOJI)]
    for start in range(0, len(found), 5):
        yield "".join(found[start : start + 5])
    for face in found[100:130]:
        yield f"ok {face}\ufe0f \U0001f44d\U0001f3fd{face}\u200d{face} \U0001f1e9\U0001f1ea!"


def _random(dice: random.Random, pool: Sequence[str]) -> str:
    start = dice.randrange(len(pool) - 64)
    block = pool[start : start + 64]
    plain = [chr(code) for code in range(0x20, 0x7F)] + ["\n", "\t", " ", " "]
    kinds = dice.choices((pool, block, plain), k=dice.randint(1, LONGEST))
    return "".join(dice.choice(kind) for kind in kinds)


def _codes(ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """The code points of ranges that are characters of Unicode 3.2, or emoji."""
    emoji = {code for first, end in EMOJI for code in range(first, end)}
    for first, end in ranges:
        for code in range(first, end):
            if code in emoji or unicodedata.ucd_3_2_0.category(chr(code)) not in UNUSED:
                yield code
