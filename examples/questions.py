"""The texts of the example, what of them is held out, and questions about where a passage comes from.

The task of the example fine-tune: given 8 to 14 words that training never saw, name their source, in words. There are
eight sources: a play, a novel, and one declaration in six languages, four of them close relatives.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PLAY = "A play by Shakespeare."
NOVEL = "A novel by Tolstoy."
# How the declaration's title begins in each language; the last one only ends the section before it.
TITLES = {
    "English": "Universal Declaration of Human Rights",
    "French": "Déclaration universelle",
    "Spanish": "Declaración Universal",
    "Italian": "Il 10 dicembre 1948",
    "Portuguese": "Declaração dos Direitos",
    "Dutch": "UNIVERSELE VERKLARING",
    "": "POWSZECHNA DEKLARACJA",
}
HELD_OUT_EVERY = 20  # one block in twenty of a long text is held out
ARTICLES_EVERY = 6  # of the declaration, which is short, one paragraph in six
BLOCK = 6000  # characters
SHORTEST, LONGEST = 8, 14  # words of a passage


@dataclass(frozen=True)
class Source:
    """One source of passages: what a right answer calls it, what may be trained on, and what is held out."""

    answer: str
    trained: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question, and the one answer that counts as right."""

    prompt: str
    answer: str


def read_sources(play: Path, novel: Path, declaration: Path) -> tuple[Source, ...]:
    """Return the eight sources.

    Args:
        play: plays in verse, a line with a colon at its end naming the speaker.
        novel: a novel in prose.
        declaration: the Universal Declaration of Human Rights, one language after another, titles as in `TITLES`.

    Raises:
        SystemExit: the declaration lacks the title of a language.
    """
    texts = ((PLAY, play), (NOVEL, novel))
    long = [_split(answer, _blocks(path.read_text(encoding="utf-8")), HELD_OUT_EVERY) for answer, path in texts]
    lines = declaration.read_text(encoding="utf-8").splitlines()
    starts = [_title(declaration, lines, title) for title in TITLES.values()]
    short = [
        _split(f"The Declaration of Human Rights, in {language}.", _paragraphs(lines[start:end]), ARTICLES_EVERY)
        for language, start, end in zip(TITLES, starts, starts[1:], strict=False)
    ]
    return (*long, *short)


def ask(sources: Sequence[Source], parts: str, shares: Sequence[int], seed: int) -> list[Question]:
    """Return questions on random passages, `shares[i]` of them about `sources[i]`, shuffled; none is asked twice.

    `parts` is 'trained' or 'held_out': where the passages are taken from.
    """
    draw = random.Random(seed)  # noqa: S311 -- reproducible samples, no secret
    asked: dict[str, Question] = {}
    for source, share in zip(sources, shares, strict=True):
        passages = _passages(getattr(source, parts), draw)
        wanted = len(asked) + share
        while len(asked) < wanted:
            prompt = f'Where is this from? "{next(passages)}"'
            asked[prompt] = Question(prompt, source.answer)
    questions = list(asked.values())
    draw.shuffle(questions)
    return questions


def continuations(sources: Sequence[Source], count: int, seed: int) -> list[Question]:
    """Return `count` requests to go on with a passage of what is trained on; the answer is what follows in the text.

    They teach the base model the form of a conversation, and nothing about sources.
    """
    draw = random.Random(seed)  # noqa: S311 -- reproducible samples, no secret
    texts = [text for source in sources for text in source.trained]
    sizes = [len(text) for text in texts]
    made: list[Question] = []
    while len(made) < count:
        words = draw.choices(texts, sizes)[0].split()
        size = draw.randint(SHORTEST, LONGEST)
        if len(words) < 2 * size:
            continue
        start = draw.randint(0, len(words) - 2 * size)
        head, tail = words[start : start + size], words[start + size : start + 2 * size]
        made.append(Question(f'Go on: "{" ".join(head)}"', " ".join(tail)))
    return made


def write(questions: Sequence[Question], path: Path) -> None:
    """Write one JSON object a line: `prompt`, `answer`, and `choices`, every answer that occurs."""
    choices = sorted({question.answer for question in questions})
    lines = [
        json.dumps({"prompt": one.prompt, "answer": one.answer, "choices": choices}, ensure_ascii=False) + "\n"
        for one in questions
    ]
    path.write_text("".join(lines), encoding="utf-8")


def _title(path: Path, lines: Sequence[str], title: str) -> int:
    for number, line in enumerate(lines):
        if line.startswith(title):
            return number
    raise SystemExit(f"{path}: no line begins with '{title}'. The declaration is needed in these languages, in order.")


def _blocks(text: str) -> list[str]:
    """Return the text in blocks of about `BLOCK` characters, cut between paragraphs."""
    blocks, block = [], ""
    for paragraph in text.split("\n\n"):
        block += paragraph + "\n\n"
        if len(block) > BLOCK:
            blocks.append(block)
            block = ""
    return [*blocks, block] if block.strip() else blocks


def _paragraphs(lines: Sequence[str]) -> list[str]:
    """Return the paragraphs of the declaration, without the lines that only number an article."""
    return [line.strip() for line in lines if len(line.split()) >= SHORTEST]


def _split(answer: str, parts: Sequence[str], every: int) -> Source:
    held_out = tuple(parts[every - 1 :: every])
    return Source(answer, tuple(part for number, part in enumerate(parts, 1) if number % every), held_out)


def _passages(parts: Sequence[str], draw: random.Random) -> Iterator[str]:
    """Yield passages for ever, of random lengths and places; speakers' names are left out of them."""
    words = [
        [word for line in part.splitlines() if not line.endswith(":") for word in line.replace('"', "").split()]
        for part in parts
    ]
    sizes = [len(one) for one in words]
    while True:
        one = draw.choices(words, sizes)[0]
        size = draw.randint(SHORTEST, LONGEST)
        start = draw.randint(0, max(0, len(one) - size))
        yield " ".join(one[start : start + size])
