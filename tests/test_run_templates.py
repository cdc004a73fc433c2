"""Which chat template of a run is taken, by which name it is written, and those that cannot be used."""

from pathlib import Path

import pytest
from vocabs import edit, make_bytes, read

from converters.spec import Tokens
from exporter.errors import TokenizerError
from exporter.tokenizer import find_tokenizer_files, read_tokenizer
from exporter.tokenizer.template import end_of_turn

CHAT = "{% for m in messages %}<|role|>{{ m['content'] }}<|turn|>\n{% endfor %}"
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 10**(10**9) }}",
    "{{ 'a' * 10**11 }}",
    "{{ '%999999999d' | format(1) * 9 }}",
)


def test_the_template_is_the_runs_own(tmp_path: Path) -> None:
    base = make_bytes(tmp_path / "base", chat_template="old base")
    (base / "chat_template.jinja").write_text("base")
    run = make_bytes(tmp_path / "run", chat_template="config")

    def template() -> tuple[object, object]:
        tokenizer = read_tokenizer(find_tokenizer_files(run, base), {}, 404, Tokens())
        return tokenizer.metadata.get("tokenizer.chat_template"), tokenizer.sources.get("chat_template")

    assert template() == ("config", "tokenizer_config.json")
    (run / "chat_template.jinja").write_text("jinja")
    assert template() == ("jinja", "chat_template.jinja")
    (run / "chat_template.jinja").unlink()
    edit(run, lambda c: c.pop("chat_template"), "tokenizer_config.json")
    assert template() == ("base", "chat_template.jinja")
    (base / "chat_template.jinja").unlink()
    assert template() == ("old base", "tokenizer_config.json")


def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "tool-use", "template": "T"},
        {"name": "default", "template": "D"},
        {"name": "rag", "template": "R"},
    ]
    metadata = read(make_bytes(tmp_path / "run", chat_template=named)).metadata
    assert metadata["tokenizer.chat_templates"] == ("rag", "tool_use")
    found = [metadata[f"tokenizer.chat_template{name}"] for name in ("", ".rag", ".tool_use")]
    assert found == ["D", "R", "T"]
    with pytest.raises(TokenizerError, match="neither a text nor a list"):
        read(make_bytes(tmp_path / "other", chat_template=[1]))


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_end_is_a_warning(template: str) -> None:
    marker, warning = end_of_turn(template, ["<|turn|>"], {})
    assert marker is None
    assert warning is not None
    assert "The chat template cannot render a question and its answer: " in warning


def test_template_names_that_are_one_in_gguf_are_refused(tmp_path: Path) -> None:
    templates = [{"name": name, "template": CHAT} for name in ("default", "tool-use", "tool_use")]
    with pytest.raises(TokenizerError, match=r"default, tool-use, tool_use are not all different"):
        read(make_bytes(tmp_path / "run", chat_template=templates))
