"""Small tokenizers made on the spot, and llama.cpp's ids of what is exported from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from converters.spec import Tokens
from exporter.tokenizer import Tokenizer, find_tokenizer_files, read_tokenizer
from exporter.tokenizer.sample import SAMPLE, expected_ids, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# What the rules of the vocabulary's ledger are called.
SAME, GROWN, SHRUNK, PADDED, CONFIG = "as in the base", "grown", "shrunk", "padded", "config.json differs"


def write_vocab(tokenizer: Tokenizer, path: Path, name: str = "") -> Path:
    """Write a GGUF of the tokenizer alone."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    for key, value in tokenizer.metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, list(value))  # type: ignore[arg-type]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def ask_llama(path: Path, texts: list[str]) -> list[Any]:
    """Return llama.cpp's ids with special tokens parsed, its ids without, and its text of the former."""
    answer: list[Any] = ask_llama_all([path], texts)[0]
    return answer


def ask_llama_all(paths: list[Path], texts: list[str]) -> list[Any]:
    """Return the same for several files, in one process."""
    child = [sys.executable, str(Path(__file__).with_name("llama_ids.py")), *map(str, paths)]
    done = subprocess.run(child, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout)
    return answers


def make_bytes(folder: Path, *, regex: str = LLAMA3, post: object = None, **config: object) -> Path:
    """Write a byte-level tokenizer of about 400 tokens, its special tokens <|begin|>, <|role|>, <|turn|>, <|end|>."""
    folder.mkdir(exist_ok=True)
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(SAMPLE, trainer)
    backend.add_special_tokens(["<|begin|>", "<|role|>", "<|turn|>", "<|end|>"])
    if post is not None:
        backend.post_processor = post
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object], file: str = "tokenizer.json") -> dict[str, Any]:
    """Apply a function to a JSON file in place and return the value."""
    path = folder / file
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    return value


def read(
    folder: Path, rows: int = 0, config: dict[str, object] | None = None, facts: Tokens | None = None
) -> Tokenizer:
    """Read a folder's tokenizer, by default for an embedding of just its tokens."""
    rows = rows or Backend.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    return read_tokenizer(find_tokenizer_files(folder), config or {}, rows, facts or Tokens())


def add(folder: Path, *tokens: AddedToken | str) -> Path:
    """Add tokens to a folder's tokenizer.json."""
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(list(tokens))
    backend.save(str(folder / "tokenizer.json"))
    return folder


def assert_same_ids(folder: Path, tokenizer: Tokenizer, tmp_path: Path, texts: Iterable[str] = SAMPLE) -> None:
    """Compare llama.cpp's ids with those expected."""
    given = prepared(texts, tokenizer)
    answer = ask_llama(write_vocab(tokenizer, tmp_path / "v.gguf"), given)
    assert answer[0] == expected_ids(folder / "tokenizer.json", given, tokenizer)


def begins(bos: int) -> processors.TemplateProcessing:
    """Return a post-processor that puts one token in front."""
    return processors.TemplateProcessing(single="<|begin|> $A", pair=None, special_tokens=[("<|begin|>", bos)])


def make_pieces(folder: Path, spaces: str, *, scrambled: bool) -> Path:
    """Write a SentencePiece-style tokenizer with byte fallback, ids in the order of the merges or not."""
    handling: dict[str, tuple[list[Any], object]] = {
        "prepend": ([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")], None),
        "replace": ([normalizers.Replace(" ", "▁")], None),
        "always": ([], pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
        "first": ([], pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    }
    trained = Backend(models.BPE())
    trained.normalizer = normalizers.Sequence(handling["prepend"][0])
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    trained.train_from_iterator(SAMPLE[9:30], trainers.BpeTrainer(vocab_size=260, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    made = ["".join(pair) for pair in model["merges"]]
    cuts = [(text[:k], text[k:]) for text in made for k in range(1, len(text))]
    merges = [pair for pair in cuts if pair[0] in model["vocab"] and pair[1] in model["vocab"]]  # all, as SentencePiece
    letters = [text for text in model["vocab"] if text not in set(made)]
    head = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = [*head, *(reversed(made) if scrambled else made), *letters]
    vocab = {text: token for token, text in enumerate(tokens)}
    backend = Backend(models.BPE(vocab, merges, fuse_unk=True, byte_fallback=True))
    steps, pre = handling[spaces]
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    if pre is not None:
        backend.pre_tokenizer = pre
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.enable_truncation(3)  # as a trainer leaves it
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
