"""What a tokenizer's files say that llama.cpp, or the `tokenizers` library, does otherwise: refused, mended or told."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from exported import planned, written
from tiny import make
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from vocabs import add, ask_llama, assert_same_ids, edit, make_bytes, make_pieces, read, write_vocab

from exporter.errors import EngineError, TokenizerError
from exporter.plan.metadata import harmless
from exporter.tokenizer import find_tokenizer_files, read_files
from exporter.tokenizer.declared import check_ids
from exporter.tokenizer.overlaps import overlap_warnings
from exporter.tokenizer.sample import SAMPLE, expected_ids, reference
from exporter.tokenizer.vocab import read_vocabulary
from exporter.verify.text import Text, require_length

FOLDERS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "tokenizers"
CONFIG = "tokenizer_config.json"
PHI = ("</s>", "<unk>", "<s>", "<|endoftext|>")


def differing(folder: Path, tmp_path: Path, texts: list[str]) -> list[str]:
    """The texts whose ids in llama.cpp are not those of tokenizer.json."""
    tokenizer = read(folder)
    found = ask_llama(write_vocab(tokenizer, tmp_path / "v.gguf"), texts)[0]
    wanted = expected_ids(folder / "tokenizer.json", texts, tokenizer)
    return [text for text, one, other in zip(texts, found, wanted, strict=True) if one != other]


def overlaps(folder: Path) -> list[str]:
    return [warning for warning in read(folder).warnings if "overlap" in warning]


# Added tokens that overlap.


@pytest.mark.parametrize(
    ("tokens", "text", "count"),
    [
        ((("chlor", False), ("loroform", False)), "chloroform", 1),
        ((("chlor", True), ("loroform", True)), "chloroform", 1),
        ((("<<", False), ("<think", False)), "<<|begin|>", 5),
        ((("barium", True), ("bar", False)), "barium", 1),  # what is matched in the raw text goes first in one
    ],
)
def test_overlapping_tokens_are_told_where_ids_differ(
    tokens: tuple[tuple[str, bool], ...], text: str, count: int, tmp_path: Path
) -> None:
    added = [AddedToken(text, normalized=normalized) for text, normalized in tokens]
    folder = add(make_bytes(tmp_path / "run"), *added)
    assert differing(folder, tmp_path, [text]) == [text]
    [warning] = overlaps(folder)
    assert f" {count} text(s) of two of them get other ids, such as {text!r}: " in warning


def test_overlapping_tokens_with_the_same_ids_are_not(tmp_path: Path) -> None:
    words = ["loroform", "chlo", "form", "formula", "\n\n", "\n\n\n", "oform"]
    folder = add(make_bytes(tmp_path / "run"), *(AddedToken(word, normalized=False) for word in words[:2]))
    assert (
        overlaps(add(folder, AddedToken("formulaic", normalized=False))) != []
    )  # loro-form-ulaic: the right is longer
    folder = add(make_bytes(tmp_path / "other"), *(AddedToken(word, normalized=False) for word in words[2:]))
    joined = ["oformula", "oform", "formula", "\n\n\n\n", "\n" * 7]
    assert differing(folder, tmp_path, joined) == ["oformula"]
    assert "1 text(s)" in overlaps(folder)[0]


def test_the_rule_is_llama_cpps_on_random_words(tmp_path: Path) -> None:
    dice = random.Random(4)  # noqa: S311  (no secrets)
    words = {"".join(dice.choices("xyz", k=dice.randint(3, 7))) for _ in range(12)}
    mixed = [AddedToken(word, normalized=dice.random() < 0.3) for word in sorted(words)]
    folder = add(make_bytes(tmp_path / "run"), *mixed)
    joined = [a[:k] + b for a in words for b in words for k in range(1, len(a)) if b.startswith(a[k:])]
    assert len(different := set(differing(folder, tmp_path, [*words, *joined]))) > 1
    [warning] = overlaps(folder)
    sure, undecided = map(int, re.findall(r"(\d+) (?:text|with)", warning))
    assert sure <= len(different) <= sure + undecided
    assert undecided < sure


def test_many_added_words_are_quick(tmp_path: Path) -> None:
    dice = random.Random(5)  # noqa: S311  (no secrets)
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(5, 14))) for _ in range(1000)]
    folder = add(make_bytes(tmp_path / "run"), *(AddedToken(word, normalized=True) for word in words))
    files = read_files(find_tokenizer_files(folder))
    vocabulary = read_vocabulary(files)
    began = time.process_time()
    assert overlap_warnings(files, vocabulary, {})
    assert time.process_time() - began < 10


@pytest.mark.skipif(not FOLDERS.is_dir(), reason="needs shared/data/tokenizers beside the repository")
@pytest.mark.parametrize("name", ["deepseek_v3", "mistral_nemo", "olmo2_dolma2", "qwen3"])
def test_real_tokenizers_are_told_of_true_differences_only(name: str, tmp_path: Path) -> None:
    found = overlaps(FOLDERS / name)
    assert bool(found) == (name == "olmo2_dolma2")
    text = "|||PHONE_NUMBER|||EMAIL_ADDRESS|||"
    assert differing(FOLDERS / name, tmp_path, [text] * bool(found)) == [text] * bool(found)


# Merges.


def test_of_a_merge_that_is_there_twice_the_last_counts(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    spec = edit(folder, lambda found: found["model"]["merges"].extend(found["model"]["merges"][:60:2]))
    tokenizer = read(folder)
    merges = tokenizer.metadata["tokenizer.ggml.merges"]
    assert isinstance(merges, tuple)
    assert len(merges) == len(set(merges)) == len(spec["model"]["merges"]) - 30
    assert_same_ids(folder, tokenizer, tmp_path)


def test_of_a_sentencepiece_merge_too(tmp_path: Path) -> None:
    folder = make_pieces(tmp_path, "prepend", scrambled=True)

    def again(spec: dict[str, Any]) -> None:
        merges = [tuple(pair) for pair in spec["model"]["merges"]]
        last = "".join(merges[3])
        spec["model"]["merges"] = [*merges, *(pair for pair in merges if "".join(pair) == last)]

    edit(folder, again)
    assert_same_ids(folder, read(folder), tmp_path)


def test_merges_that_lack_a_pair_of_pieces_are_refused(tmp_path: Path) -> None:
    folder = make_pieces(tmp_path, "prepend", scrambled=False)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    made = ["".join(pair) for pair in spec["model"]["merges"]]
    text = next(text for text in made if made.count(text) > 1)
    left, right = next(pair for pair in spec["model"]["merges"] if "".join(pair) == text)
    edit(folder, lambda found: found["model"]["merges"].remove([left, right]))
    with pytest.raises(TokenizerError, match=r"model\.merges lacks 1 pair\(s\), the first is .*Take the"):
        read(folder)


def test_missing_byte_tokens_are_named(tmp_path: Path) -> None:
    folder = make_pieces(tmp_path, "replace", scrambled=False)
    vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    renamed = {"<0x0A>": "<unused0>", "<0xE5>": "<unused1>"}
    edit(folder, lambda found: found["model"].update(vocab={renamed.get(one, one): n for one, n in vocab.items()}))
    with pytest.raises(TokenizerError, match="2 of the 256 byte tokens are not in the vocabulary: <0x0A>, <0xE5>"):
        read(folder)


def test_dropout_is_left_out_and_told(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    edit(folder, lambda found: found["model"].update(dropout=0.9))
    tokenizer = read(folder)
    assert any(warning.startswith("tokenizer.json: model.dropout is 0.9") for warning in tokenizer.warnings)
    backend = reference(folder / "tokenizer.json", tokenizer)
    assert len({tuple(backend.encode(SAMPLE[9]).ids) for _ in range(20)}) == 1
    assert_same_ids(folder, tokenizer, tmp_path)


# What is declared.


def test_ids_that_the_library_does_not_give_are_refused(tmp_path: Path) -> None:
    folder = add(make_bytes(tmp_path / "run"), "one", "two")
    edit(folder, lambda found: found["added_tokens"][-1].update(id=412))
    with pytest.raises(TokenizerError, match=r"'two' is declared as 412, and the tokenizers library gives it 405"):
        read(folder, rows=420)
    folder = make_bytes(tmp_path / "other")
    entry = {"content": "<new>", "special": True}
    edit(folder, lambda found: found.update(added_tokens_decoder={"410": entry}), CONFIG)
    with pytest.raises(TokenizerError, match=r"added_tokens_decoder\) .*'<new>' is declared as 410, .* gives it 404"):
        read(folder, rows=420)


def test_the_ids_are_those_of_the_library() -> None:
    dice = random.Random(6)  # noqa: S311  (no secrets)
    outcomes = set()
    for _ in range(300):
        ids = dice.sample(range(8), dice.randint(1, 6)) if dice.random() < 0.3 else range(dice.randint(1, 6))
        base = {token: "abcdefgh"[k] for k, token in enumerate(ids)}
        names = dice.sample(["<1>", "<2>", "<3>", "a"], dice.randint(1, 4))
        known, fresh = {text: token for token, text in base.items()}, iter(range(len(base), 20))
        slips = [name for name in names if name not in known and dice.random() < 0.2]
        declared = {name: known[name] if name in known else next(fresh) + (name in slips) for name in names}
        flags = dict.fromkeys(("special", "normalized", "lstrip", "rstrip", "single_word"), False)
        listed = [{"id": token, "content": text, **flags} for text, token in declared.items()]
        spec = {"version": "1.0", "added_tokens": listed, "model": {"type": "BPE", "vocab": known, "merges": []}}
        backend = Backend.from_str(json.dumps(spec))
        same = all(backend.token_to_id(text) == token for text, token in declared.items())
        try:
            check_ids(listed, base, {})
        except TokenizerError:
            outcomes.add((same, "refused"))
        else:
            outcomes.add((same, "taken"))
    assert outcomes == {(True, "taken"), (False, "refused")}


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (CONFIG, {"eos_token": 5}, "tokenizer_config.json: eos_token is 5, expected the token's text"),
        ("special_tokens_map.json", {"pad_token": ["a"]}, r"special_tokens_map.json: pad_token is \['a'\]"),
        ("added_tokens.json", {"<new>": "404"}, "added_tokens.json: the id of '<new>' is '404', expected a whole"),
    ],
)
def test_forms_that_say_nothing_are_refused(file: str, fields: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    known = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(known | fields), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        read(folder)


# Chat templates.


def test_templates_without_a_default_and_empty_ones_are_told(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run", chat_template=[{"name": "tool_use", "template": "{{ 1 }}"}])
    tokenizer = read(folder)
    assert any("tool_use, none is called 'default'" in warning for warning in tokenizer.warnings)
    assert "tokenizer.chat_template" not in tokenizer.metadata
    (folder / "chat_template.jinja").write_text("\n")
    empty = read(folder)
    assert any("chat_template.jinja: the chat template is empty" in warning for warning in empty.warnings)
    assert not [key for key in empty.metadata if "chat_template" in key]
    (folder / "chat_template.jinja").write_text("{{ 1 }}{# \0 #}")
    with pytest.raises(TokenizerError, match=r"chat_template.jinja: .*'default' holds a zero byte at character 10"):
        read(folder)


# A run's name.


def test_names_that_llama_cpp_goes_by() -> None:
    assert harmless("my-Phi-3-mini", ("a", *PHI)) == ("my-Phi-3-mini", ())
    for name, made in (("my-Phi-3-mini", "my-Phi 3-mini"), ("PHI3x", "PHI 3x"), ("a-modern-bert", "a-modern bert")):
        found, notes = harmless(name, ("a", *PHI[1:]))
        assert (found, len(notes)) == (made, 1)
    assert harmless("phi-4", ()) == ("phi-4", ())


def test_a_run_called_after_phi_loads(tmp_path: Path) -> None:
    run = make("llama", tmp_path / "my-phi-3-distill")
    [note] = [note for note in planned(run, "f32").notes if "general.name" in note]
    assert "'my-phi 3-distill'" in note
    file = written(run, tmp_path / "out")[-1]["f32"]
    assert len(ask_llama(file, ["x"])) == 3


# The length of --text.


def test_what_trainers_save_does_not_change_a_texts_length(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(128)
    backend.save(str(folder / "tokenizer.json"))
    require_length(Text("t", b"word and word " * 200, ""), folder / "tokenizer.json", "default")
    backend.no_truncation()
    backend.enable_padding(length=2048)
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(EngineError, match=r"the evaluation text has \d tokens"):
        require_length(Text("t", b"word", ""), folder / "tokenizer.json", "default")
