"""What a run's own tokenizer and template say: computed once, compared with each file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.check.conversations import conversations
from exporter.check.corpus import around, corpus, random_texts
from exporter.tokenizer import read_files
from exporter.tokenizer.sample import ids_of, prepared, reference
from exporter.tokenizer.template import rendered

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from exporter.plan import Plan
    from exporter.run import Run
    from exporter.tokenizer import Tokenizer
    from exporter.tokenizer.files import TokenizerFiles

GGML = "tokenizer.ggml."
ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
OTHER_CUTS = "which llama.cpp's pre-tokenizer is known to cut otherwise"
RESPELLED = "with added tokens of SentencePiece's signs for spaces, which a GGUF file holds as spaces"
PIECE = 4096
"""Characters of a user's text that are compared at a time, up to the end of a line."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as the run's template renders it with jinja2; ``failed`` says why where it does not.

    ``given`` is the text as llama.cpp is to be given it, and ``ids`` what it must make of it; None for a text that
    llama.cpp is known to cut otherwise.
    """

    name: str
    values: Mapping[str, object]
    text: str
    failed: str | None
    given: str | None
    ids: Sequence[int]


@dataclass(frozen=True)
class Expected:
    """What a file made of a run must hold and say."""

    rows: int
    vocabulary: Mapping[int, str]
    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    counts: Mapping[str, int]
    """How many texts of each kind, those that were left out among them, for a reader."""
    left_out: Mapping[str, int]
    """How many texts are not compared, by the reason."""
    template: str | None
    prompts: Sequence[Prompt]
    adds_bos: bool | None
    """Whether a text begins with BOS; None where the run does not say."""
    given: str | None
    """The pre-tokenizer's name, where ``--pre`` chose it."""


def expect(run: "Run", plan: "Plan", text: str | None = None) -> Expected:
    """Compute what a run's files say. TokenizerError where a text holds a token that has no row.

    Args:
        run: whose tokenizer files are the reference.
        plan: how the tokenizer is written.
        text: the user's own, compared too.
    """
    tokenizer, files = plan.tokenizer, read_files(run.tokenizer_files)
    backend = reference(run.tokenizer_files["tokenizer.json"], tokenizer)
    rows = len(tokenizer.metadata[f"{GGML}tokens"])  # type: ignore[arg-type]
    added, respelled = _added(backend, tokenizer, rows)
    parts = {
        "of the corpus": corpus(),
        "random": random_texts(),
        "with added tokens": tuple(around(added)),
        "of --text": _pieces(text) if text is not None else (),
    }
    every = [one for part in parts.values() for one in part]
    alike = prepared(every, tokenizer)
    texts = [one for one in alike if not any(token in one for token in respelled)]
    flag = tokenizer.metadata.get(f"{GGML}add_bos_token")
    return Expected(
        rows=rows,
        vocabulary={token: one for one, token in backend.get_vocab(with_added_tokens=True).items() if token < rows},
        texts=texts,
        ids=ids_of(backend, texts, tokenizer),
        counts={name: len(part) for name, part in parts.items() if part},
        left_out={OTHER_CUTS: len(every) - len(alike), RESPELLED: len(alike) - len(texts)},
        template=files.templates.get("default"),
        prompts=_prompts(files, backend, tokenizer),
        adds_bos=flag if isinstance(flag, bool) else None,
        given=str(tokenizer.metadata.get(f"{GGML}pre")) if "pre" in tokenizer.sources else None,
    )


def _added(backend: "Backend", tokenizer: "Tokenizer", rows: int) -> tuple[list[tuple[str, bool]], list[str]]:
    """The added tokens as the file spells them, with whether they strip; and those it spells otherwise.

    Runs of SentencePiece's sign for a space, which GGUF holds as spaces: a text with the signs themselves has other
    ids in llama.cpp, whoever converted the file.
    """
    written: Sequence[str] = tokenizer.metadata[f"{GGML}tokens"]  # type: ignore[assignment]
    found = {token: one for token, one in sorted(backend.get_added_tokens_decoder().items()) if token < rows}
    spelled = [(written[token], one.lstrip or one.rstrip or one.single_word) for token, one in found.items()]
    return spelled, [one.content for token, one in found.items() if written[token] != one.content]


def _prompts(files: "TokenizerFiles", backend: "Backend", tokenizer: "Tokenizer") -> tuple[Prompt, ...]:
    """The conversations, rendered by the run's own template; none where there is no template."""
    template = files.templates.get("default")
    if template is None:
        return ()
    talks, special = conversations(template), special_tokens(files)
    values = [talk.values(special) for talk in talks]
    results = rendered(template, values)
    given = [next(iter(prepared([text], tokenizer)), None) for text, _ in results]
    ids = ids_of(backend, [text or "" for text in given], tokenizer)
    return tuple(
        Prompt(talk.name, values[k], *results[k], given[k], ids[k])  # in the order of the conversations
        for k, talk in enumerate(talks)
    )


def special_tokens(files: "TokenizerFiles") -> dict[str, str]:
    """The tokens that a template may use, by transformers' names: those that the run's files set."""
    found = {}
    for role in ROLES:
        value = files.config[role] if role in files.config else files.special_map.get(role)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[role] = text
    return found


def _pieces(text: str) -> tuple[str, ...]:
    """A text in pieces that end where a line does."""
    pieces: list[str] = [""]
    for line in text.splitlines(keepends=True):
        if len(pieces[-1]) > PIECE:
            pieces.append("")
        pieces[-1] += line
    return tuple(pieces)
