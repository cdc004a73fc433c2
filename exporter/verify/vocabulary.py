"""Whether files can have the vocabulary of a run: looked at before the run is converted to be their reference."""

from collections.abc import Sequence
from pathlib import Path

from exporter.errors import EngineError


def require_one_of(reference: str, tokens: Sequence[str], files: Sequence[Path]) -> None:
    """EngineError where no file has a run's vocabulary: another number of tokens, or others for the most part.

    Other converters spell a few tokens otherwise: what this leaves open, the ids of the text tell later.

    Args:
        reference: the run, as the user gave it.
        tokens: the texts of its tokens, by id.
        files: GGUF files; one that cannot be read counts as fitting, for llama.cpp says why it cannot.
    """
    others = []
    for file in files:
        found = _tokens(file)
        differ = 0 if found is None else sum(one != other for one, other in zip(found, tokens, strict=False))
        if found is None or (len(found) == len(tokens) and 2 * differ < len(found)):
            return
        more = f", {differ} of them others" if len(found) == len(tokens) else ""
        others.append(f"{file} has {len(found)} tokens{more}")
    raise EngineError(
        f"{reference}: this run has another vocabulary, of {len(tokens)} tokens; {', '.join(others)}. "
        f"Nothing can be compared token by token. Give the run that the file{'s' * bool(others[1:])} came from."
    )


def _tokens(file: Path) -> Sequence[str] | None:
    """The texts of a file's tokens, by id; None where it does not say, or cannot be read."""
    from gguf import GGUFReader  # noqa: PLC0415  (slow to import)

    try:
        field = GGUFReader(file).get_field("tokenizer.ggml.tokens")
        return None if field is None else list(field.contents())
    except (ValueError, IndexError, KeyError, OSError, TypeError):
        return None
