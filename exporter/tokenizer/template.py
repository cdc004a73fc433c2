"""Chat templates: their GGUF keys, and the token that ends a turn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jinja2 import Environment

KEY = "tokenizer.chat_template"
ANSWER = "The answer is 42."


def template_metadata(templates: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    """Return the GGUF keys of the templates: the default one, and the others by name, names in order."""
    named = {re.sub(r"[^0-9A-Za-z]", "_", name): text for name, text in sorted(templates.items()) if name != "default"}
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
    try:
        rendered = (
            _environment().from_string(template).render(messages=messages, add_generation_prompt=False, **specials)
        )
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        return None, f"The chat template cannot render a question and its answer: {type(error).__name__}: {error}."
    behind = rendered.rpartition(ANSWER)[2].lstrip() if ANSWER in rendered else ""
    return max((text for text in texts if behind.startswith(text)), key=len, default=None), None


def _environment() -> Environment:
    """Return a sandbox with what transformers gives to chat templates."""
    from jinja2 import TemplateError, nodes  # noqa: PLC0415 - a slow import that many commands do without
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Generation(Extension):
        """``{% generation %}`` marks what is trained on; its text is rendered as it stands."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own form

        def parse(self, parser: Any) -> nodes.Node:  # noqa: ANN401 - jinja2's parser
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: form
    return environment
