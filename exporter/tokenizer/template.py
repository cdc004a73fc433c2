"""Chat templates: their GGUF keys, and the token that ends a turn."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from exporter.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KEY = "tokenizer.chat_template"
ANSWER = "The answer is 42."
SECONDS = 60
SCRIPT = Path(__file__).with_name("render.py")
Engine = Literal["jinja2", "minijinja"]


def template_metadata(templates: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    """Return the GGUF keys of the templates: the default one, and the others by name, names in order.

    Raises:
        TokenizerError: Two names are one in GGUF, where they hold letters, digits and underscores only.
    """
    named = {re.sub(r"[^0-9A-Za-z]", "_", name): text for name, text in sorted(templates.items()) if name != "default"}
    if len(named) + ("default" in templates) < len(templates):
        raise TokenizerError(
            f"chat_template: the names {', '.join(sorted(templates))} are not all different when spelled in letters, "
            "digits and underscores, as GGUF has them. Rename one of the templates."
        )
    found: dict[str, str | tuple[str, ...]] = {f"{KEY}.{name}": text for name, text in named.items()}
    if named:
        found["tokenizer.chat_templates"] = tuple(named)
    if "default" in templates:
        found[KEY] = templates["default"]
    return found


def end_of_turn(template: str, texts: Iterable[str], specials: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Render one question and its answer, and see what follows the answer.

    Args:
        template: The Jinja text.
        texts: The added tokens' texts.
        specials: What the template may use, such as bos_token.

    Returns:
        The added token that follows the answer (None where none does), and a warning where the template failed.
    """
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": ANSWER}]
    values = {"messages": messages, "add_generation_prompt": False, **specials}
    [(text, failed)] = rendered(template, [values])
    if failed is not None:
        return None, f"The chat template cannot render a question and its answer: {failed}."
    behind = text.rpartition(ANSWER)[2].lstrip() if ANSWER in text else ""
    found = max((token for token in texts if behind.startswith(token)), key=len, default=None)
    before = text.lstrip().removeprefix(specials.get("bos_token") or "").lstrip()
    if found is not None and before.startswith(found):  # where the next turn begins, not where this one ends
        return (
            None,
            f"The chat template puts nothing but {found!r}, which begins a turn, behind an answer; not written.",
        )
    return found, None


def rendered(
    template: str, values: Sequence[Mapping[str, object]], engine: Engine = "jinja2"
) -> list[tuple[str, str | None]]:
    """Return for each set of variables the text, and what failed, if anything did.

    It is done in a child process, for a template may run for ever. The child bounds its own memory and processor time;
    the time on the clock is bounded here, generously, so that a busy machine gives the same result.

    Args:
        template: The Jinja text.
        values: The sets of variables.
        engine: What renders it.
    """
    document = json.dumps({"engine": engine, "template": template, "values": values})
    command = [sys.executable, "-P", str(SCRIPT)]
    try:
        done = subprocess.run(command, input=document.encode(), capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [("", f"it takes longer than {SECONDS} seconds")] * len(values)
    if done.returncode:
        return [("", "it takes too much time or memory")] * len(values)
    return [(str(result["text"]), result["failed"]) for result in json.loads(done.stdout)]
