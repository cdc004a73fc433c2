"""Chat templates of published models: jinja2 here, transformers, and llama.cpp's own engine render them alike."""

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from reference.make_jinja_golden import GOLDEN, SPECIAL

from exporter.check.conversations import conversations
from exporter.tokenizer.render import NOW, render
from exporter.tokenizer.template import rendered

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "chat-templates"
REFERENCE: dict[str, Any] = json.loads(lzma.decompress(GOLDEN.read_bytes()))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs shared/reference/chat-templates")

EVERY = ("system", "multi-turn", "tools", "empty system", "trailing assistant")
# Template and conversations that llama.cpp renders and jinja2 does not, or otherwise; and why.
UNEQUAL: dict[str, tuple[tuple[str, ...], str]] = {
    "CohereForAI-c4ai-command-r-plus-tool_use": (
        ("tools",),
        "reads a field that a parameter lacks: nothing in llama.cpp",
    ),
    "Kimi-K2-Instruct": (("tools",), "appends to a list, which transformers' sandbox forbids"),
    "Kimi-K2-Thinking": (("tools",), "appends to a list, which transformers' sandbox forbids"),
    "fireworks-ai-llama-3-firefunction-v2": (EVERY, "wants a variable `functions`; nothing in llama.cpp"),
    "llama-cpp-deepseek-r1": (("tools",), "writes a generator as JSON, a list in llama.cpp"),
    "meetkai-functionary-medium-v3.1": (("tools",), "adds to a text marked safe: jinja2 escapes what is added"),
    "meetkai-functionary-medium-v3.2": (("tools",), "adds an object to a text: an error in jinja2"),
}


def template(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def test_the_golden_texts_are_of_these_templates() -> None:
    assert REFERENCE.keys() == {file.stem for file in FOLDER.glob("*.jinja")}
    for name, golden in REFERENCE.items():
        assert hashlib.sha256(template(name).encode()).hexdigest() == golden["sha256"]


def test_jinja2_renders_what_llamacpps_engine_does() -> None:
    unequal: dict[str, list[str]] = {}
    for name, golden in REFERENCE.items():
        talks = conversations(template(name))
        results = render(template(name), [talk.values(SPECIAL) for talk in talks])
        for talk, ours in zip(talks, results, strict=True):
            theirs = golden["rendered"][talk.name]
            refused = ours["failed"] is not None
            if refused is not ("failed" in theirs) or (not refused and ours["text"] != theirs["text"]):
                unequal.setdefault(name, []).append(talk.name)
    assert {name: tuple(talks) for name, talks in unequal.items()} == {
        name: talks for name, (talks, _) in UNEQUAL.items()
    }


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
def test_jinja2_renders_what_transformers_does() -> None:
    from transformers.utils import chat_template_utils  # noqa: PLC0415  (seconds to import)

    for name in REFERENCE:
        compiled = chat_template_utils._compile_jinja_template(template(name))
        compiled.environment.globals["strftime_now"] = NOW.strftime
        talks = [talk.values(SPECIAL) for talk in conversations(template(name))]
        for values, ours in zip(talks, render(template(name), talks), strict=True):
            if ours["failed"] is None:
                assert compiled.render(**values) == ours["text"], name
            else:
                with pytest.raises(Exception):  # noqa: B017, PT011  (whatever the template raises)
                    compiled.render(**values)


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "LFM2.5-8B-A1B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"])
def test_minijinja_renders_what_jinja2_does(name: str) -> None:
    values = [talk.values(SPECIAL) for talk in conversations(template(name))]
    assert rendered(template(name), values, "minijinja") == rendered(template(name), values)
