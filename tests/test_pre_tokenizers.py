# ruff: noqa: RUF001 - look-alike letters are what the texts are for
"""Every pre-tokenizer that llama.cpp knows by name cuts as the table says.

The truth is llama.cpp: it gets a vocabulary that merges across every border of words, so a border in the wrong place
shows in the ids.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tiny import make
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from vocabs import ask_llama_all, edit, write_vocab

from converters.spec import Tokens
from exporter.cli import cli
from exporter.errors import TokenizerError
from exporter.tokenizer import find_tokenizer_files, read_tokenizer
from exporter.tokenizer.cuts import cuts_alike, made
from exporter.tokenizer.pre import pre_tokenizer
from exporter.tokenizer.pre_table import BYTES, NAMES, NO_ROW, RAW, TABLE, Pre
from exporter.tokenizer.sample import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE = (
    *("1234567 12 123abc a1 a12  345 1,234.5678", "x  12 y   1234", "HÄUSER ПриветМир CamelCase McDonald's IT'S it'LL"),
    *(
        "<sentinel:12> IMGIMGABCZ a    b  c\tx\n\n!?(x).y",
        "a\r\nb\r\n\r\n  c\n ",
        "我12个abc三 ー々〇 ㄅㄆ 가나 ！？“”",
    ),
    *("$5 + 3 < 7 = ~x|y^z`q", "ที่นี่ 12345 ខ្ញុំ", "don'T we'Ve 'S'", "a" + " " * 600 + "b", "/path//x/\n/y"),
    *("Ünïcödé ñ 12½ ٣٤٥٦٧", "a.b,c…d。e，f、g।h", "x = [1,\n\n\n  2]\n\t\ty", "नमस्ते दुनिया १२३४५"),
)
ARABIC = next(text for text in SAMPLE if "٠" in text)
TEXTS = [*SAMPLE, *MORE]
ASKED = ((), ("--pre", "gpt-2", "--json"), ("--pre", "qwen-2"))
SOURCE = Path(os.environ.get("LLAMA_CPP", "/nonexistent")) / "src" / "llama-vocab.cpp"


def trained(steps: tuple[str, ...]) -> Backend:
    """Return a byte-level tokenizer trained on the texts, which it cuts by the steps."""
    backend = Backend(models.BPE())
    spec = json.loads(backend.to_str()) | {"pre_tokenizer": made(steps)}
    backend = Backend.from_str(json.dumps(spec))
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2500, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([part for text in TEXTS for part in (text, text[1:40], text[5:25])], trainer)
    return backend


@cache
def borderless() -> str:
    return trained((BYTES,)).to_str()


def save(folder: Path, name: str, row: Pre, steps: tuple[str, ...], *, spec: str) -> tuple[Backend, Path]:
    """Write tokenizer.json with these steps, and the GGUF with this name; return what encodes, and the latter."""
    folder.mkdir()
    value = json.loads(spec) | {"pre_tokenizer": made(steps)}
    value["model"]["ignore_merges"] = bool(row.ignore_merges)
    (folder / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    rows = len(value["model"]["vocab"])
    tokenizer = read_tokenizer(find_tokenizer_files(folder), {"eos_token_id": 0}, rows, Tokens(), pre=name)
    return Backend.from_str(json.dumps(value)), write_vocab(tokenizer, folder / "v.gguf")


def different(backends: list[Backend], files: list[Path], kept: list[list[str]]) -> Iterator[tuple[int, str]]:
    for k, (backend, answer) in enumerate(zip(backends, ask_llama_all(files, TEXTS), strict=True)):
        expected = [one.ids for one in backend.encode_batch(TEXTS, add_special_tokens=False)]
        for text, ours, theirs in zip(TEXTS, expected, answer[0], strict=True):
            if ours != theirs and text in kept[k]:
                yield k, text


def test_llama_cpp_cuts_as_the_table_says(tmp_path: Path) -> None:
    cases = [(row, name) for row in TABLE for name in row.names]
    made_ = [save(tmp_path / name, name, row, row.engine or row.steps, spec=borderless()) for row, name in cases]
    wrong = list(different([one for one, _ in made_], [file for _, file in made_], [TEXTS] * len(made_)))
    assert [(cases[k][1], text) for k, text in wrong] == []


def test_where_llama_cpp_does_it_otherwise_the_ids_are_the_same_or_the_text_is_named(tmp_path: Path) -> None:
    cases = [row for row in TABLE if row.engine]
    made_ = [
        save(
            tmp_path / row.name,
            row.name,
            row,
            row.steps,
            spec=borderless() if row.limit else trained(row.steps).to_str(),
        )
        for row in cases
    ]
    kept = [[text for text in TEXTS if cuts_alike(row.name, text)] for row in cases]
    assert all(len(texts) > len(TEXTS) // 2 for texts in kept)
    wrong = list(different([one for one, _ in made_], [file for _, file in made_], kept))
    # llama.cpp leaves digits together there: a vocabulary may join bytes of two that are none of 0 to 9.
    assert [text for k, text in wrong if (cases[k].name, text) != ("deepseek-llm", ARABIC)] == []


def test_the_structure_gives_the_name() -> None:
    found = {}
    for row in TABLE:
        model = {"ignore_merges": bool(row.ignore_merges)}
        spec = {"model": model, "pre_tokenizer": made(row.steps), "normalizer": {"type": "NFC"} if row.nfc else None}
        found[row.name] = pre_tokenizer(spec)
        if found[row.name] == row.name:
            assert all(pre_tokenizer(spec, name) == name for name in row.names)
    assert {name: other for name, other in found.items() if name != other} == {"granite-embed-multi-97m": "llama4"}


def test_the_names_are_those_of_llama_cpp() -> None:
    if not SOURCE.is_file():
        pytest.skip("needs llama.cpp's source, as it is in the source distribution of llama-cpp-python")
    assert set(re.findall(r'tokenizer_pre == "([^"]+)"', SOURCE.read_text("utf-8"))) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("qwen-2", rf"--pre qwen-2: .* near: qwen2, .*\nAll {len(NAMES)} names: .*, {NAMES[-1]}\.$"),
        ("whitespace", "an encoder's"),
        ("gemma4", "SentencePiece-style.*this one is byte-level"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=says):
        save(tmp_path / "v", name, TABLE[0], (BYTES,), spec=borderless())
    assert {*RAW, *NO_ROW} < {*NAMES}


def test_pre_of_a_command(tmp_path: Path) -> None:
    folder = make("qwen2", tmp_path / "run")
    unknown = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    spec = edit(folder, lambda found: found["pre_tokenizer"].update(made((f"split {'x'}+", BYTES))))
    assert unknown in spec["pre_tokenizer"]["pretokenizers"]
    refused, asked, wrong = (CliRunner().invoke(cli, ["inspect", str(folder), *more]) for more in ASKED)
    assert isinstance(refused.exception, TokenizerError)
    assert json.loads(asked.output)["tokenizer"]["pre"] == "gpt-2"
    assert (wrong.exit_code, "near: qwen2, qwen35" in wrong.output) == (2, True)
