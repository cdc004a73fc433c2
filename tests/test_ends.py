"""The end of a text is always in the file: where none is named, llama.cpp would stop at a token of its own choice."""

from pathlib import Path

import pytest
from vocabs import edit, make_bytes

from converters.spec import Tokens
from exporter.errors import TokenizerError
from exporter.tokenizer import find_tokenizer_files, read_tokenizer

CHAT = "{% for m in messages %}<|role|>{{ m['content'] }}<|turn|>\n{% endfor %}"


@pytest.mark.parametrize("said", [None, {"eos_token_id": None}])
def test_an_end_of_text_is_always_written(said: dict[str, object] | None, tmp_path: Path) -> None:
    folder = make_bytes(tmp_path / "run", chat_template=CHAT)
    edit(folder, lambda c: c.pop("eos_token", None), "tokenizer_config.json")
    tokenizer = read_tokenizer(find_tokenizer_files(folder), said or {}, 404, Tokens())
    turn = tokenizer.metadata["tokenizer.ggml.tokens"].index("<|turn|>")  # type: ignore[union-attr]
    assert tokenizer.metadata["tokenizer.ggml.eos_token_id"] == turn
    assert tokenizer.sources["eos"] == "the chat template"
    assert "tokenizer.ggml.eot_token_id" not in tokenizer.metadata
    edit(folder, lambda c: c.pop("chat_template"), "tokenizer_config.json")
    with pytest.raises(TokenizerError, match="none of them names an end of text"):
        read_tokenizer(find_tokenizer_files(folder), said or {}, 404, Tokens())


@pytest.mark.parametrize("odd", ["258", 258.0, [258, "259"], True])
def test_an_end_that_is_no_id_is_refused(odd: object, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"config\.json: eos_token_id is .* expected a token's id"):
        read_tokenizer(find_tokenizer_files(make_bytes(tmp_path / "run")), {"eos_token_id": odd}, 404, Tokens())
