"""Tokenizers made on the spot: what read_tokenizer writes, and that llama.cpp then gives tokenizer.json's ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from vocabs import LLAMA3, add, ask_llama, assert_same_ids, begins, edit, make_bytes, make_pieces, read, write_vocab

from converters.spec import Tokens
from exporter.errors import TokenizerError
from exporter.tokenizer import find_tokenizer_files, read_tokenizer
from exporter.tokenizer.cuts import cuts_alike
from exporter.tokenizer.sample import expected_ids

if TYPE_CHECKING:
    from pathlib import Path

CHAT = "{% for m in messages %}<|role|>{{ m['content'] }}<|turn|>\n{% endfor %}"
GGML = "tokenizer.ggml."
WORDS = ("end", "turn", "role")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def test_added_words_stay_visible_and_markers_do_not(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    word = AddedToken("Aspirin", special=False, normalized=False)
    loud = AddedToken("Ibuprofen", special=True, normalized=False)
    named = AddedToken("Taxol", special=True, normalized=False)
    marker = AddedToken("[DOSE]", special=True, normalized=False)
    add(folder, word, loud, named, marker, AddedToken("<|look|>", special=False, normalized=False))
    edit(folder, lambda c: c.update(additional_special_tokens=["Taxol"]), "tokenizer_config.json")
    tokenizer = read(folder)
    texts = ["Take Aspirin and Ibuprofen[DOSE] daily<|look|>."]
    parsed, _, again = ask_llama(write_vocab(tokenizer, tmp_path / "v.gguf"), texts)
    assert parsed == expected_ids(folder / "tokenizer.json", texts, tokenizer)
    assert again == ["Take Aspirin and Ibuprofen daily."]
    types = tokenizer.metadata[GGML + "token_type"]
    assert isinstance(types, tuple)
    assert list(types[-5:]) == [USER_DEFINED, USER_DEFINED, CONTROL, CONTROL, CONTROL]


def test_byte_level_ids_are_those_of_tokenizer_json(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    tokenizer = read(folder, rows=512)
    assert tokenizer.metadata[GGML + "pre"] == "dbrx"
    assert_same_ids(folder, tokenizer, tmp_path)


def test_the_pre_tokenizer_does_not_depend_on_ids(tmp_path: Path) -> None:
    plain = make_bytes(tmp_path / "plain")
    begun = add(make_bytes(tmp_path / "begun", post=begins(400)), "one", "two", "three")
    names = {str(read(folder).metadata[GGML + "pre"]) for folder in (plain, begun)}
    assert names == {"dbrx"}
    edit(begun, lambda s: s["model"].update(ignore_merges=True))
    assert read(begun).metadata[GGML + "pre"] == "llama-bpe"
    assert read(begun).metadata[GGML + "add_bos_token"] is True
    assert read(plain).metadata[GGML + "add_bos_token"] is False


def test_an_unknown_pre_tokenizer_is_refused_with_the_nearest(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run", regex=LLAMA3.replace("{1,3}", "{1,4}"))
    with pytest.raises(TokenizerError, match=r"(?s)\\p\{N\}\{1,4\}.*Nearest known, dbrx.*\\p\{N\}\{1,3\}.*--pre NAME"):
        read(folder)
    forced = read_tokenizer(find_tokenizer_files(folder), {}, 404, Tokens(), pre="dbrx")
    assert forced.metadata[GGML + "pre"] == "dbrx"


def test_a_normalizer_that_changes_letters_is_refused(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    edit(folder, lambda s: s.update(normalizer={"type": "Lowercase"}))
    with pytest.raises(TokenizerError, match="its normalizer is Lowercase"):
        read(folder)
    edit(folder, lambda s: s.update(normalizer={"type": "NFC"}))
    tokenizer = read(folder)
    assert tokenizer.normalizes
    assert any("NFC" in warning for warning in tokenizer.warnings)
    assert_same_ids(folder, tokenizer, tmp_path)


def test_rows_decide_how_many_tokens_are_written(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    padded = read(folder, rows=410)
    tokens, types = padded.metadata[GGML + "tokens"], padded.metadata[GGML + "token_type"]
    assert isinstance(tokens, tuple)
    assert isinstance(types, tuple)
    assert tokens[404:] == tuple(f"[PAD{token}]" for token in range(404, 410))
    assert types[404:] == (UNUSED,) * 6
    add(folder, AddedToken("<image>", special=True))
    left_out = read(folder, rows=404)
    assert "<image>" in left_out.warnings[0]
    with pytest.raises(TokenizerError, match="use another text"):
        expected_ids(folder / "tokenizer.json", ["<image>"], left_out)
    with pytest.raises(TokenizerError, match=r"2 token\(s\) .* the first is 405 .* has 404 rows"):
        read(add(folder, AddedToken("word", special=False), AddedToken("again", special=False)), rows=404)
    with pytest.raises(TokenizerError, match="have no row"):
        read(folder, rows=300)


def test_equal_texts_are_refused(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    edit(folder, lambda s: s["added_tokens"].append({**s["added_tokens"][0], "id": 404, "content": "a"}))
    with pytest.raises(TokenizerError, match="are both 'a'"):
        read(folder, rows=405)
    add(make_bytes(tmp_path / "pad"), AddedToken("[PAD406]", special=True))
    with pytest.raises(TokenizerError, match=r"Tokens 404 and 406 are both '\[PAD406\]'"):
        read(tmp_path / "pad", rows=410)


def test_ends_of_text_and_turn_come_from_all_files(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run", chat_template=CHAT)
    ids = Backend.from_file(str(folder / "tokenizer.json")).token_to_id
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids("<|end|>"), ids("<|role|>")]}))
    tokenizer = read(folder, config={"eos_token_id": [ids("<|turn|>")]})
    assert tokenizer.metadata[GGML + "eos_token_id"] == ids("<|end|>")
    assert tokenizer.metadata[GGML + "eot_token_id"] == ids("<|turn|>")
    assert tokenizer.sources["eos"] == "tokenizer_config.json"
    assert [warning for warning in tokenizer.warnings if "<|role|>" in warning]
    (folder / "tokenizer_config.json").write_text("{}")
    bare = read(folder, config={"eos_token_id": [ids("<|turn|>"), ids("<|end|>")]})
    assert bare.metadata[GGML + "eos_token_id"] == ids("<|turn|>")
    assert bare.sources["eos"] == "config.json"
    assert bare.metadata[GGML + "eot_token_id"] == ids("<|end|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|turn|>"}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    by = read(folder, config={"eos_token_id": [ids("<|role|>"), ids("<|end|>")]})
    assert by.sources["eot"] == "generation_config.json"
    (folder / "generation_config.json").unlink()
    assert read(folder, config={"eos_token_id": ids("<|end|>")}).sources["eot"] == "config.json"


def test_a_missing_tokenizer_json_is_to_be_copied(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"run: No tokenizer.json; found tokenizer_config.json.* Copy it \(or tok"):
        read(folder, rows=410)


def test_every_end_is_reported_with_who_says_so(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run", chat_template=CHAT)
    end, turn, role = (Backend.from_file(str(folder / "tokenizer.json")).token_to_id(f"<|{x}|>") for x in WORDS)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, role]}))
    tokenizer = read(folder, config={"eos_token_id": end})
    found = {one.token: (one.text, one.said_by, one.stops) for one in tokenizer.ends}
    assert found == {
        end: ("<|end|>", ("tokenizer_config.json", "config.json", "generation_config.json"), "eos"),
        turn: ("<|turn|>", ("the chat template",), "eot"),
        role: ("<|role|>", ("generation_config.json",), "no"),
    }
    assert tokenizer.facts["ends"] == [one.document for one in tokenizer.ends]


@pytest.mark.parametrize("form", [["Taxol"], {"drug_token": "Taxol"}, [{"content": "Taxol"}]])
def test_extra_special_tokens_in_every_form(form: object, tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run", **dict.fromkeys(["extra_special_tokens"], form))
    add(folder, AddedToken("Taxol", special=True, normalized=False), AddedToken("Aspirin", special=True))
    types = read(folder).metadata[GGML + "token_type"]
    assert isinstance(types, tuple)
    assert types[-2:] == (CONTROL, USER_DEFINED)


def test_a_special_token_must_exist(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="eos_token is '<gone>', which is no token"):
        read(make_bytes(tmp_path / "run", **dict.fromkeys(["eos_token"], "<gone>")))
    tokenizer = read(
        make_bytes(tmp_path / "two", **dict.fromkeys(["pad_token"], "<gone>")), config={"pad_token_id": 401}
    )
    assert tokenizer.metadata[GGML + "padding_token_id"] == 401
    assert any("'<gone>'" in warning for warning in tokenizer.warnings)
    with pytest.raises(TokenizerError, match="post_processor begins every text"):
        read(make_bytes(tmp_path / "three", post=begins(401)))


def test_an_end_added_for_training_is_left_out(tmp_path: Path) -> None:
    ends = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>", pair=None, special_tokens=[("<|begin|>", 400), ("<|end|>", 403)]
    )
    tokenizer = read(make_bytes(tmp_path / "run", post=ends, add_eos_token=True))
    assert tokenizer.metadata[GGML + "add_bos_token"] is True
    assert tokenizer.metadata[GGML + "add_eos_token"] is False
    assert any("no answer would begin" in warning for warning in tokenizer.warnings)


def test_a_token_that_only_the_config_names(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    entry = {"content": "<|im_end|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    marks = {f"<|{name}|>": 400 + k for k, name in enumerate(("begin", "role", "turn", "end"))}
    edit(folder, lambda s: s["model"]["vocab"].update({**marks, "[UNUSED_1]": 404}))
    edit(folder, lambda c: c.update(added_tokens_decoder={"404": entry}), "tokenizer_config.json")
    tokenizer = read(folder, rows=405)
    assert tokenizer.split_off == {"<|im_end|>": 404}
    assert_same_ids(folder, tokenizer, tmp_path, ("Yes.<|im_end|>\nNo<|im_end|>",))
    edit(folder, lambda c: c["added_tokens_decoder"].update({"300": entry}), "tokenizer_config.json")
    with pytest.raises(TokenizerError, match=r"Token 300 is .* and '<\|im_end\|>' in tokenizer_config.json"):
        read(folder, rows=405)


def test_what_llama_cpp_cuts_in_another_way() -> None:
    alike = ["Hello World", "Größe", "ÄÖÜ", "camelCase", "Привет мир", "我想"]
    other = ["HÄUSER", "ПриветМир", "नमस्ते", "สวัสดี", "שָׁלוֹם"]
    assert all(cuts_alike("tekken", text) for text in alike)
    assert not any(cuts_alike("tekken", text) for text in other)
    assert all(cuts_alike("qwen2", text) for text in other)


@pytest.mark.parametrize("order", ["merges", "scrambled"])
@pytest.mark.parametrize("spaces", ["prepend", "replace", "always", "first"])
def test_sentencepiece_style_ids(tmp_path: Path, order: str, spaces: str) -> None:
    folder = make_pieces(tmp_path, spaces, scrambled=order == "scrambled")
    tokenizer = read(folder)
    assert tokenizer.metadata[GGML + "model"] == "llama"
    assert tokenizer.metadata.get(GGML + "add_space_prefix", True) is (spaces != "replace")
    assert_same_ids(folder, tokenizer, tmp_path)
    scores = tokenizer.metadata[GGML + "scores"]
    assert isinstance(scores, tuple)
    assert scores[259:262] == (0.0, -1.0, -2.0) or order == "scrambled"  # as a SentencePiece model has them


ODD: tuple[tuple[str, dict[str, object]], ...] = (
    *(("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}} | odd}) for odd in ({}, {"merges": []})),
    *(
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": odd}})
        for odd in (3, [3], ["a"], [[]])
    ),
    *(("tokenizer.json", {"model": {"type": "BPE", "merges": ["a b"]} | odd}) for odd in ({}, {"vocab": ["a"]})),
    *(("tokenizer.json", {"model": odd}) for odd in (3, [], None, "BPE")),
    *(("tokenizer.json", {"added_tokens": odd}) for odd in (3, [3], [{"id": 400}], [{"content": "a"}], [{"id": "x"}])),
    ("tokenizer.json", {"added_tokens": [{"id": 400, "content": "\ud800", "special": True}]}),
    *(
        ("tokenizer.json", {"normalizer": odd})
        for odd in (3, {"type": "Sequence"}, {"type": "Sequence", "normalizers": 3})
    ),
    *(("tokenizer.json", {"pre_tokenizer": odd}) for odd in ([], {"type": "Split", "pattern": 3}, {"type": []})),
    *(("tokenizer.json", {"post_processor": odd}) for odd in (3, {"type": "Sequence"}, {"type": "TemplateProcessing"})),
    *(("tokenizer_config.json", {"added_tokens_decoder": odd}) for odd in (3, [3], {"x": {}}, {"7": {}}, {"7": 3})),
    ("tokenizer_config.json", {"additional_special_tokens": 3}),
)


@pytest.mark.parametrize(("file", "fields"), ODD)
def test_files_that_are_not_as_saved_are_refused(file: str, fields: dict[str, object], tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    edit(folder, lambda found: found.update(fields), file)
    with pytest.raises(TokenizerError, match=r"tokenizer(_config)?\.json|Token"):
        read(folder, rows=404)


def test_a_post_processor_that_panics_is_refused(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    piece = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    odd = {"type": "TemplateProcessing", "single": [piece], "pair": [piece], "special_tokens": {}}
    edit(folder, lambda spec: spec.update(post_processor=odd))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        read(folder, rows=404)


def test_texts_that_are_not_utf8_or_too_deep_are_refused(tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(TokenizerError, match=r"chat_template.jinja: cannot be read as UTF-8"):
        read(folder)
    (folder / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(TokenizerError, match=r"tokenizer_config.json: cannot be read as JSON"):
        read(folder)
