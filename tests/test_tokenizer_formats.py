"""Tokenizers without a tokenizer.json: what is made of SentencePiece, tekken and tiktoken files gives their own ids."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from vocabs import ask_llama, make_bytes, write_vocab

from converters.spec import Tokens
from exporter.errors import TokenizerError
from exporter.tokenizer import find_tokenizer_files, read_tokenizer
from exporter.tokenizer.made import is_made, spec_of, with_tokenizer_json
from exporter.tokenizer.pieces import read_model
from exporter.tokenizer.pre_table import TEKKEN
from exporter.tokenizer.ranks import FIRST_CONTROLS, TIKTOKEN, Program, alphabet
from exporter.tokenizer.sample import SAMPLE, prepared

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "tokenizers"
GGML = "tokenizer.ggml."
USER_DEFINED = 4


def byte_strings(spec: dict[str, Any], count: int) -> list[bytes]:
    """The first tokens of a byte-level vocabulary as byte strings, in the order of their ids."""
    bytes_of = {letter: byte for byte, letter in enumerate(alphabet())}
    tokens = sorted(spec["model"]["vocab"].items(), key=lambda item: item[1])
    return [bytes(bytes_of[letter] for letter in text) for text, _ in tokens[:count]]


def tiktoken_file(path: Path, tokens: list[bytes]) -> Path:
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    path.write_bytes(b"".join(lines))
    return path


def ids_of(spec: dict[str, Any], texts: list[str]) -> list[list[int]]:
    backend = Backend.from_str(json.dumps(spec))
    return [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]


def by_ranks(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Tiktoken's own rule: of all neighbours, the pair is joined that makes the token of the lowest rank."""
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1 and word not in ranks:
        joined = [(ranks.get(a + b, len(ranks)), k) for k, (a, b) in enumerate(pairwise(parts))]
        rank, k = min(joined)
        if rank == len(ranks):
            break
        parts[k : k + 2] = [parts[k] + parts[k + 1]]
    return [ranks[part] for part in ([word] if word in ranks else parts)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/tokenizers beside the repository")
@pytest.mark.parametrize(("name", "count"), [("qwen2_5", 151643), ("llama3_2", 128000)])
def test_a_tiktoken_file_gives_the_ids_of_the_published_tokenizer(name: str, count: int, tmp_path: Path) -> None:
    published = json.loads((SHARED / name / "tokenizer.json").read_text("utf-8"))
    file = tiktoken_file(tmp_path / "tokenizer.model", byte_strings(published, count))
    spec = spec_of(file)
    texts = [*SAMPLE, "one<|im_end|>two", "e\u0301", "<|start_header_id|>x<|eot_id|>"]
    assert ids_of(spec, texts) == ids_of(published, texts)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data/tokenizers beside the repository")
@pytest.mark.parametrize("name", ["llama2", "mistral_spm_v3"])
def test_a_sentencepiece_model_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(SHARED / name / "tokenizer.model")
    files = with_tokenizer_json(find_tokenizer_files(tmp_path))
    assert is_made(files["tokenizer.json"])
    pieces = read_model(files["tokenizer.model"].read_bytes()).pieces
    rows, marked = len(pieces), {token for token, (_, _, kind) in enumerate(pieces) if kind == USER_DEFINED}
    end = {"eos_token_id": 2}
    made = read_tokenizer(files, end, rows, Tokens())
    published = read_tokenizer(find_tokenizer_files(SHARED / name), end, rows, Tokens())
    for key in ("tokens", "bos_token_id", "add_bos_token", "model"):
        assert made.metadata[GGML + key] == published.metadata[GGML + key], key
    for key in ("scores", "token_type"):  # the published tokenizer.json forgot which pieces are never merged
        pairs = zip(made.metadata[GGML + key], published.metadata[GGML + key], strict=True)  # type: ignore[arg-type]
        assert {token for token, (one, other) in enumerate(pairs) if one != other} <= marked
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(files["tokenizer.model"]))
    truth = [processor.encode(text) for text in SAMPLE]
    assert ids_of(json.loads(files["tokenizer.json"].read_text("utf-8")), [*SAMPLE]) == truth
    assert ask_llama(write_vocab(made, tmp_path / "v.gguf"), [*SAMPLE])[1] == truth


def test_tekken_alone(tmp_path: Path) -> None:
    spec = json.loads((make_bytes(tmp_path / "run") / "tokenizer.json").read_text("utf-8"))
    tokens = byte_strings(spec, 400)
    tokens.sort(key=lambda token: len(token) > 1)  # tekken has the bytes first
    vocab = [{"rank": k, "token_bytes": base64.b64encode(token).decode()} for k, token in enumerate(tokens)]
    config = {"pattern": TEKKEN.removeprefix("split "), "default_vocab_size": 390, "default_num_special_tokens": 30}
    given = {"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "</s>"}
    for special in ({}, {"special_tokens": given}):
        folder = tmp_path / f"tekken{len(special)}"
        folder.mkdir()
        (folder / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab, **special}), encoding="utf-8")
        files = with_tokenizer_json(find_tokenizer_files(folder))
        made = read_tokenizer(files, {"eos_token_id": 2}, 390, Tokens())
        spec = json.loads(files["tokenizer.json"].read_text("utf-8"))
        assert (made.metadata[GGML + "pre"], made.metadata[GGML + "bos_token_id"]) == ("tekken", 1)
        assert made.metadata[GGML + "add_bos_token"] is True
        texts = prepared(SAMPLE, made)
        assert ask_llama(write_vocab(made, folder / "v.gguf"), texts)[0] == ids_of(spec, texts)
        assert spec["added_tokens"][20]["content"] == "<SPECIAL_20>"
        assert spec["added_tokens"][3]["content"] == ("<SPECIAL_3>" if special else FIRST_CONTROLS[3])


def test_tekken_is_read_as_transformers_does(tmp_path: Path) -> None:
    tekken = pytest.importorskip("transformers.integrations.mistral.tokenizer")
    spec = json.loads((make_bytes(tmp_path / "run") / "tokenizer.json").read_text("utf-8"))
    tokens = sorted(byte_strings(spec, 400), key=lambda token: len(token) > 1)
    vocab = [{"rank": k, "token_bytes": base64.b64encode(token).decode()} for k, token in enumerate(tokens)]
    config = {"pattern": TEKKEN.removeprefix("split "), "default_vocab_size": 380, "default_num_special_tokens": 20}
    specials = [{"rank": k, "token_str": text, "is_control": True} for k, text in enumerate(FIRST_CONTROLS)]
    file = tmp_path / "tekken.json"
    file.write_text(json.dumps({"config": config, "vocab": vocab, "special_tokens": specials}), encoding="utf-8")
    theirs = json.loads(tekken.MistralConverter(str(file)).converted().to_str())
    ours = spec_of(file)
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    assert ids_of(ours, [*SAMPLE]) == ids_of(theirs, [*SAMPLE])


def test_tiktoken_by_its_own_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = json.loads((make_bytes(tmp_path / "run") / "tokenizer.json").read_text("utf-8"))
    tokens = byte_strings(spec, 400)
    program = Program(TIKTOKEN[128000].words, whole=True, controls=("<|a|>", "<|b|>"), bos="<|a|>")
    monkeypatch.setitem(TIKTOKEN, 400, program)
    folder = tmp_path / "tik"
    folder.mkdir()
    tiktoken_file(folder / "own.tiktoken", tokens)
    files = with_tokenizer_json(find_tokenizer_files(folder))
    made = json.loads(files["tokenizer.json"].read_text("utf-8"))
    backend, ranks = Backend.from_str(json.dumps(made)), {token: rank for rank, token in enumerate(tokens)}
    bytes_of = {letter: byte for byte, letter in enumerate(alphabet())}
    for text in SAMPLE:
        words = [bytes(bytes_of[x] for x in word) for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        found = backend.encode(text, add_special_tokens=False).ids
        assert found == [token for word in words for token in by_ranks(word, ranks)]
    tokenizer = read_tokenizer(files, {"eos_token_id": 401}, 402, Tokens())
    assert tokenizer.metadata[GGML + "bos_token_id"] == 400
    assert ask_llama(write_vocab(tokenizer, folder / "v.gguf"), [*SAMPLE])[0] == ids_of(made, [*SAMPLE])


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="a tiktoken file of 2 ranks, which does not say how words are cut"):
        spec_of(tiktoken_file(tmp_path / "x.tiktoken", [b"a", b"b"]))
    broken = tmp_path / "tokenizer.model"
    for data in (b"", b"\xff\xfe\x00", b"\x0a\xff"):
        broken.write_bytes(data)
        with pytest.raises(TokenizerError, match=r"tokenizer.model: cannot be read as a tokenizer"):
            spec_of(broken)
    piece, trained = b"\x0a\x05\x0a\x03<s>", b"\x12\x02\x18"
    for kind, says in ((b"\x01", "trained as Unigram, expected BPE"), (b"\x02", "removes spaces that follow spaces")):
        broken.write_bytes(piece + trained + kind)
        with pytest.raises(TokenizerError, match=says):
            spec_of(broken)
    (tmp_path / "tekken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tekken\.json: cannot be read"):
        spec_of(tmp_path / "tekken.json")


WHOLE: dict[str, Any] = {
    "config": {"pattern": r"\p{L}+", "default_vocab_size": 4, "default_num_special_tokens": 2},
    "special_tokens": [{"rank": k, "token_str": text} for k, text in enumerate(("<unk>", "<s>"))],
    "vocab": [{"rank": k, "token_bytes": text} for k, text in enumerate(("YQ==", "Yg=="))],
}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("vocab", [{"rank": 1, "token_bytes": "YQ=="}, {"rank": 0, "token_bytes": "Yg=="}]),
        ("vocab", []),
        ("config", WHOLE["config"] | {"default_num_special_tokens": 10**12}),
        ("config", WHOLE["config"] | {"default_vocab_size": 1e999}),
        ("config", WHOLE["config"] | {"pattern": None}),
        ("special_tokens", [{"rank": 0, "token_str": None}, {"rank": 1, "token_str": "<s>"}]),
    ],
)
def test_a_tekken_file_that_contradicts_itself_is_refused(part: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(WHOLE | {part: value}))
    with pytest.raises(TokenizerError, match=r"tekken.json: cannot be read as a tokenizer"):
        spec_of(tmp_path / "tekken.json", None)
