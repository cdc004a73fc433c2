"""Real tokenizers: llama.cpp's ids are tokenizer.json's, and the metadata is that of llama.cpp's converter.

The tokenizers are looked for beside the repository, in ``shared/data/tokenizers``; without them the tests skip.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from reference.make_tokenizers import short
from tokenizers import Tokenizer as Backend
from vocabs import ask_llama, write_vocab

from converters.spec import Tokens
from exporter.errors import TokenizerError
from exporter.tokenizer import Tokenizer, find_tokenizer_files, read_tokenizer
from exporter.tokenizer.sample import SAMPLE, expected_ids, prepared

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
FOLDERS = SHARED / "data" / "tokenizers"
VECTORS = SHARED / "reference" / "tokenizer-vectors"
REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "reference" / "tokenizers.json").read_text("utf-8"))
GGML = "tokenizer.ggml."

pytestmark = pytest.mark.skipif(not FOLDERS.is_dir(), reason="needs shared/data/tokenizers beside the repository")

# llama.cpp's own ids, for those of its vocabularies that are here.
VECTORS_OF = {
    "llama2": "llama-spm",
    "phi3_mini": "phi-3",
    "llama3_2": "llama-bpe",
    "qwen2_5": "qwen2",
    "qwen3": "qwen2",
    "command_r_plus": "command-r",
}
FACTS = {"gemma3": Tokens(add_space_prefix=False), "mistral_nemo": Tokens(follows_add_prefix_space=True)}

# llama.cpp goes by the spelling of these, where they are ordinary tokens too.
MARKS = "one</s>two<|im_end|> three </s>\n<|endoftext|>"

UNSCORED = "without tokenizer.model it gives every token the score -1000: another order of merges"
# What the converter writes otherwise, key by key, and why that is not followed.
FAULTS: dict[str, dict[str, str]] = {
    "deepseek_v3": {"pre": "another name of the same regular expressions, by a hash that depends on BOS"},
    "internlm2": {
        "scores": UNSCORED,
        "tokens": "appends the chat tokens beyond the embedding instead of naming ids 92538 to 92543",
        "token_type": "the same, and takes [UNUSED_TOKEN_0] for text",
    },
    "mixtral_8x22b_v0_1": {"scores": UNSCORED},
    "phi3_mini": {
        "scores": UNSCORED,
        "tokens": "does not pad to the rows of the embedding: the file does not load",
        "token_type": "the same, and takes <|user|> for visible text and </s> for a word",
    },
    "yi": {"scores": UNSCORED},
}
# Keys that the converter leaves out, and why they are written.
EXTRA: dict[str, dict[str, str]] = {
    "internlm2": {
        "add_space_prefix": "tokenizer.json puts no space in front; llama.cpp's default does",
        "unknown_token_id": "named in tokenizer_config.json",
        "padding_token_id": "named in tokenizer_config.json",
        "eot_token_id": "the template ends a turn with <|im_end|>",
    },
    "olmo2_dolma2": {"add_bos_token": "tokenizer.json adds none, and no other file says so"},
    "phi3_mini": {"eot_token_id": "the template ends a turn with <|end|>"},
    "yi": {"add_space_prefix": "tokenizer.json puts no space in front; llama.cpp's default does"},
}


@cache
def tokenizer_of(name: str) -> Tokenizer:
    config = REFERENCE[name]["config"]
    facts = FACTS.get(name, Tokens())
    return read_tokenizer(find_tokenizer_files(FOLDERS / name), config, config["vocab_size"], facts)


@cache
def vectors(stem: str) -> tuple[list[str], list[list[int]]]:
    """Read llama.cpp's test strings and the ids it expects for them."""
    path = VECTORS / f"ggml-vocab-{stem}.gguf"
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_name(path.name + ".out").read_text("utf-8").split("\n")
    texts = texts if texts[-1] else texts[:-1]
    return texts, [[int(word) for word in line.split()] for line in lines[: len(texts)]]


@cache
def texts_of_all_kinds() -> tuple[str, ...]:
    lines = (SHARED / "data" / "text" / "multilingual_udhr32.txt").read_text("utf-8").splitlines()
    inputs = [text for stem in ("llama-bpe", "gemma-4", "qwen35") for text in vectors(stem)[0]]
    return (
        *SAMPLE,
        *inputs,
        *lines[:: len(lines) // 300],
        Path(__file__).with_name("llama_ids.py").read_text("utf-8"),
        MARKS,
    )


def with_added(folder: Path, rows: int) -> list[str]:
    """Return texts in which the first and last special tokens stand in the middle of words and spaces."""
    added = Backend.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    picked = [token.content for number, token in sorted(added.items()) if number < rows]
    joints = ("", " ", "\n", " a", "b ", "  12")
    return [f"x{joint}{text}{joint}{text}y" for text in (*picked[:8], *picked[-8:]) for joint in joints]


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_ids(name: str, tmp_path: Path) -> None:
    tokenizer, folder = tokenizer_of(name), FOLDERS / name
    rows = REFERENCE[name]["config"]["vocab_size"]
    texts = prepared((*texts_of_all_kinds(), *with_added(folder, rows)), tokenizer)
    # llama.cpp strips whitespace behind Phi-3's special tokens, as tokenizer.json does, where the name says Phi-3.
    path = write_vocab(tokenizer, tmp_path / "vocab.gguf", "Phi-3" if name == "phi3_mini" else "")
    parsed, plain, _ = ask_llama(path, texts)
    expected = expected_ids(folder / "tokenizer.json", texts, tokenizer)
    different = [text for text, ours, theirs in zip(texts, parsed, expected, strict=True) if ours != theirs]
    assert not different
    if name in VECTORS_OF:
        given, truth = vectors(VECTORS_OF[name])
        assert [plain[texts.index(text)] for text in prepared(given, tokenizer)] == truth


@pytest.mark.parametrize("name", sorted(name for name, case in REFERENCE.items() if case["golden"]))
def test_metadata_is_the_converters(name: str) -> None:
    golden = REFERENCE[name]["golden"]
    found = {
        key: short(list(value) if isinstance(value, tuple) else value)
        for key, value in tokenizer_of(name).metadata.items()
    }
    faults = {GGML + key for key in FAULTS.get(name, {})}
    assert {key for key in golden if found.get(key) != golden[key]} == faults
    assert set(found) - set(golden) == {GGML + key for key in EXTRA.get(name, {})}


@pytest.mark.parametrize("name", ["llama2", "mistral_spm_v3"])
def test_scores_made_from_merges_are_the_real_ones(name: str, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FOLDERS / name / file, tmp_path / file)
    real = tokenizer_of(name).metadata
    config = REFERENCE[name]["config"]
    made = read_tokenizer(find_tokenizer_files(tmp_path), config, config["vocab_size"], Tokens())
    assert made.sources["scores"] == "the merges of tokenizer.json"
    types, pairs = real[GGML + "token_type"], (real[GGML + "scores"], made.metadata[GGML + "scores"])
    assert isinstance(types, tuple)
    different = [kind for kind, one, other in zip(types, *pairs, strict=True) if one != other]  # type: ignore[arg-type]
    assert set(different) <= {2, 3}  # unknown and control tokens, which nothing is merged into


def test_a_tokenizer_model_of_another_model_is_refused() -> None:
    files = find_tokenizer_files(FOLDERS / "llama2")
    files["tokenizer.model"] = FOLDERS / "mistral_spm_v3" / "tokenizer.model"
    with pytest.raises(TokenizerError, match=r"piece 3 is .*, tokenizer.json has '<0x00>' there"):
        read_tokenizer(files, {}, 32000, Tokens())


def test_what_is_left_out_and_named_is_said() -> None:
    assert any("<image_soft_token>" in warning for warning in tokenizer_of("gemma3").warnings)
    assert tokenizer_of("internlm2").split_off["<|im_end|>"] == 92542
    assert tokenizer_of("llama3_2").metadata[GGML + "eos_token_id"] == 128009
    assert any("combining marks" in warning for warning in tokenizer_of("mistral_nemo").warnings)
