"""The conversations that a chat template is proved on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages, the tools that are offered, and whether an answer is asked for."""

    name: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    asks: bool = True

    def values(self, special: Mapping[str, str]) -> dict[str, object]:
        """The variables of a template, as transformers gives them; ``special`` has ``bos_token`` and so on."""
        given: dict[str, object] = {"messages": self.messages, "tools": self.tools, "documents": None}
        return given | {"add_generation_prompt": self.asks} | dict(special)


def _says(role: str, content: str, **more: object) -> Message:
    return {"role": role, "content": content, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place & its <unit>, 'now'.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": 'Such as "Zürich"'},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["place"],
        },
    },
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Zürich", "unit": "C"}},
}
QUESTION = _says("user", "What is 17 + 25? Answer in one word, please.")
TURNS = (
    _says("user", "Hello!  Who are you?\n"),
    _says("assistant", "A model — nothing more. 👍🏽"),
    _says("user", "Write <b>bold</b> & 'quoted' text:\n\n```py\nx = {'a': 1}\n```"),
    _says("assistant", "  **bold**, “quoted”\n"),
    _says("user", "Thanks, 谢谢, спасибо"),
)
CONVERSATIONS = (
    Conversation("system", (_says("system", "You are terse. Never apologise."), QUESTION)),
    Conversation("multi-turn", TURNS),
    Conversation(
        "tools",
        (
            _says("user", "How warm is it in Zürich?"),
            _says("assistant", "", tool_calls=[CALL]),
            _says("tool", '{"degrees": 21.5}', tool_call_id="call00001", name="get_weather"),
        ),
        tools=(WEATHER,),
    ),
    Conversation("empty system", (_says("system", ""), QUESTION)),
    Conversation("trailing assistant", (*TURNS[:3], _says("assistant", "Of course: **bold**")), asks=False),
)
THOUGHT = "17 and 25 make 42."
REASONING = Conversation(
    "reasoning",
    (
        QUESTION,
        # Under the names that transformers fills in where a message has one of them.
        _says("assistant", "42", reasoning_content=THOUGHT, thinking=THOUGHT),
        _says("user", "And doubled?"),
        _says("assistant", "84", reasoning_content="Twice 42 is 84.", thinking="Twice 42 is 84."),
    ),
    asks=False,
)


def conversations(template: str) -> tuple[Conversation, ...]:
    """Those for a template: five, and one with reasoning where the template reads it."""
    reads = any(name in template for name in ("reasoning_content", "thinking"))
    return (*CONVERSATIONS, *((REASONING,) if reads else ()))
