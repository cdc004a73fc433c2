"""Which token begins, ends, pads: ids and flags, and the file each was taken from."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from exporter.errors import TokenizerError
from exporter.tokenizer.pre import flat
from exporter.tokenizer.vocab import content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.tokenizer.files import TokenizerFiles
    from exporter.tokenizer.vocab import Vocabulary

# transformers' word -> GGUF's, which spells "seperator" so.
KINDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
NEEDED = ("bos", "eos")

# llama.cpp stops at these texts without being told (src/llama-vocab.cpp, special_eog_ids).
KNOWN_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "[e~["),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    )
)
# It also makes control tokens of these, for filling in the middle.
KNOWN_FILLERS = frozenset(
    (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|file_sep|>", "<｜fim▁begin｜>"),  # noqa: RUF001
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
    )
)


@dataclass(frozen=True)
class Around:
    """What the tokenizer puts before and behind a text of its own accord, as token ids."""

    before: tuple[int, ...]
    behind: tuple[int, ...]


@dataclass(frozen=True)
class Specials:
    """Special ids by transformers' word, the flags to write, where they came from."""

    ids: Mapping[str, int]
    flags: Mapping[str, bool]
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def read_specials(files: TokenizerFiles, config: Mapping[str, object], ids: Mapping[str, int], rows: int) -> Specials:
    """Find each special token: tokenizer_config.json first, then the other files.

    Args:
        files: The tokenizer's files.
        config: config.json.
        ids: Text -> id of every token.
        rows: Rows of the embedding.

    Raises:
        TokenizerError: The token that begins or ends a text does not exist, or cannot be put where it belongs.
    """
    found: dict[str, int] = {}
    sources: dict[str, str] = {}
    warnings: list[str] = []
    around = read_around(files.spec)
    for kind in KINDS:
        for source, value in _candidates(kind, files, config, around):
            token = _resolve(kind, value, source, ids)
            if token is None or not 0 <= token < rows:
                warnings.append(
                    f"{source}: {kind}_token {value!r} is no token with a row in the embedding; passed over."
                )
                continue
            found[kind], sources[kind] = token, source
            break
    flags, flag_warnings = _flags(files, found, around)
    return Specials(found, flags, sources, (*warnings, *flag_warnings))


def read_around(spec: Mapping[str, Any]) -> Around:
    """Run the post-processor of tokenizer.json alone, over one word of a vocabulary made for the purpose."""
    word = 2**31
    parts = ("added_tokens", "normalizer", "pre_tokenizer", "decoder", "truncation", "padding")
    stub: dict[str, Any] = {"version": "1.0", **dict.fromkeys(parts), "added_tokens": []}
    stub["post_processor"] = spec.get("post_processor")
    stub["model"] = {"type": "WordLevel", "vocab": {"a": word}, "unk_token": "a"}
    with library_errors("its post_processor"):
        ids = Backend.from_str(json.dumps(stub)).encode("a").ids
    place = ids.index(word)
    return Around(tuple(ids[:place]), tuple(ids[place + 1 :]))


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a TokenizerError: Exception itself, and its own panics."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"tokenizer.json: {what} cannot be run ({error}). Save the tokenizer again with transformers."
        ) from error


def end_of_turn_id(specials: Specials, marker: int | None, stops: tuple[int, ...]) -> int | None:
    """Return the end of a turn where it is another token than the end of text, else None.

    Args:
        specials: The ids found.
        marker: What the chat template puts behind an answer.
        stops: The ids at which config.json and generation_config.json say to stop.
    """
    eos = specials.ids.get("eos")
    if marker is not None:
        return marker if marker != eos else None
    return next((token for token in stops if token != eos), None)


def stop_ids(files: TokenizerFiles, config: Mapping[str, object]) -> tuple[int, ...]:
    """Return the ids at which generation stops, each once, generation_config.json's first."""
    said = [*_ids("generation_config.json", files.generation, "eos"), *_ids("config.json", config, "eos")]
    return tuple(dict.fromkeys(said))


def stop_source(files: TokenizerFiles, token: int | None) -> str:
    """Return which file says to stop at one of the `stop_ids`."""
    generation = "generation_config.json"
    return generation if token in _ids(generation, files.generation, "eos") else "config.json"


@dataclass(frozen=True)
class End:
    """A token at which some file says that a text, a turn or the generation ends."""

    token: int
    text: str
    said_by: tuple[str, ...]
    stops: str  # why llama.cpp stops there; "no" where it does not

    @property
    def document(self) -> dict[str, object]:
        """As reports have it."""
        return {"id": self.token, "text": self.text, "said_by": list(self.said_by), "stops": self.stops}


def all_ends(
    files: TokenizerFiles,
    config: Mapping[str, object],
    ids: Mapping[str, int],
    written: Mapping[str, int],
    *,
    marker: int | None,
) -> tuple[End, ...]:
    """Collect every token that some file has for an end, who says so, and whether llama.cpp stops there.

    Args:
        files: The tokenizer's files.
        config: config.json.
        ids: Text -> id of every token.
        written: "eos" and "eot" with the ids that the GGUF has for them.
        marker: What the chat template puts behind an answer.
    """
    said: dict[int, list[str]] = {}
    for name, mapping in (("tokenizer_config.json", files.config), ("special_tokens_map.json", files.special_map)):
        if (text := content(mapping.get("eos_token"))) in ids:
            said.setdefault(ids[str(text)], []).append(name)
    for name, values in (("config.json", config), ("generation_config.json", files.generation)):
        for token in _ids(name, values, "eos"):
            said.setdefault(token, []).append(name)
    if marker is not None:
        said.setdefault(marker, []).append("the chat template")
    texts, roles = {token: text for text, token in ids.items()}, {token: role for role, token in written.items()}
    return tuple(
        End(token, texts.get(token, ""), tuple(names), roles.get(token) or _known_end(texts.get(token)))
        for token, names in sorted(said.items())
    )


def _known_end(text: str | None) -> str:
    return "by its text" if text in KNOWN_ENDS else "no"


def stop_warnings(ids: Mapping[str, int], ends: set[int | None], stops: tuple[int, ...]) -> list[str]:
    """Name the stops that llama.cpp will not see: neither eos or eot, nor known by their text."""
    texts = {token: text for text, token in ids.items()}
    unseen = [token for token in stops if token not in ends and texts.get(token) not in KNOWN_ENDS]
    if not unseen:
        return []
    names = ", ".join(f"{token} ({texts.get(token, 'no such token')!r})" for token in unseen)
    return [f"generation_config.json or config.json also stops at {names}; llama.cpp will not stop there."]


def taken_for_special(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the ordinary tokens that llama.cpp makes control tokens by their text: '</s>' in Qwen's vocabulary."""
    known = KNOWN_ENDS | KNOWN_FILLERS
    return {text: token for token, text in vocabulary.base.items() if text in known and token not in vocabulary.added}


def _candidates(
    kind: str, files: TokenizerFiles, config: Mapping[str, object], around: Around
) -> Iterator[tuple[str, str | int]]:
    for source, mapping in (("tokenizer_config.json", files.config), ("special_tokens_map.json", files.special_map)):
        if text := content(mapping.get(f"{kind}_token")):
            yield source, text
    if kind == "bos" and len(around.before) == 1:
        yield "the post-processor of tokenizer.json", around.before[0]
    for source, values in (("config.json", config), ("generation_config.json", files.generation)):
        for token in _ids(source, values, kind):
            yield source, token


def _ids(source: str, fields: Mapping[str, object], kind: str) -> list[int]:
    """Return the ids that a file gives a special token, one or a list; null and -1 stand for none."""
    key = f"{kind}_token_id"
    value = fields.get(key)
    values = [one for one in (value if isinstance(value, list | tuple) else [value]) if one is not None]
    odd = [one for one in values if type(one) is not int]
    if odd:
        raise TokenizerError(
            f"{source}: {key} is {value!r:.60}, expected a token's id, a whole number, or a list of such. Correct it: "
            "with no such token in the file, llama.cpp would take another one of its own."
        )
    return [one for one in values if isinstance(one, int) and one >= 0]


def _resolve(kind: str, value: str | int, source: str, ids: Mapping[str, int]) -> int | None:
    if isinstance(value, int):
        return value
    if value not in ids and kind in NEEDED:
        raise TokenizerError(
            f"{source}: {kind}_token is {value!r}, which is no token of tokenizer.json with a row in the embedding. "
            "Name another token there, or export a run that holds the resized embedding; as it is, texts would not "
            "begin or end as the model was trained."
        )
    return ids.get(value)


def _flags(files: TokenizerFiles, ids: Mapping[str, int], around: Around) -> tuple[dict[str, bool], list[str]]:
    """Return what llama.cpp shall add by itself: what the post-processor adds, and never an end of text."""
    warnings = []
    begins = bool(around.before)
    if begins and around.before != (ids.get("bos"),):
        raise TokenizerError(
            f"tokenizer.json: its post_processor begins every text with {list(around.before)}, bos_token is "
            f"{ids.get('bos')}. llama.cpp can put bos_token there only: make the two agree."
        )
    said = files.config.get("add_bos_token")
    if isinstance(said, bool) and said != begins:
        warnings.append(
            f"tokenizer_config.json says add_bos_token {said}, the post_processor of tokenizer.json "
            f"{'adds one' if begins else 'adds none'}; written as the latter does."
        )
    flags = {"bos": begins}
    processors = flat(files.spec.get("post_processor"), "processors")
    ends = files.config.get("add_eos_token")
    if around.behind or ends is True:
        warnings.append(
            "The tokenizer ends every text with a token, as for training; left out, or no answer would begin."
        )
    if around.behind or isinstance(ends, bool) or any(item.get("type") == "ByteLevel" for item in processors):
        flags["eos"] = False
    if any(_separates(item) for item in processors):
        flags["sep"] = False
    return flags, warnings


def _separates(processor: Mapping[str, Any]) -> bool:
    """Say whether anything stands between the two texts of a pair; llama.cpp's converter then writes the flag."""
    pair = [next(iter(part)) for part in processor.get("pair") or () if isinstance(part, dict)]
    places = [index for index, part in enumerate(pair) if part == "Sequence"]
    return len(places) > 1 and places[-1] - places[0] > 1
