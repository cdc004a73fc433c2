"""A chat template rendered by MiniJinja, an engine that shares no code with jinja2: run as a file, as `render.py` is.

It is given ``{"template": text, "values": [variables, …]}`` and answers a list of ``{"text": …, "failed": … or null}``.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import minijinja

SECONDS = 3
MEMORY = 4 << 30  # address space; of memory it takes little
FUEL = 10_000_000
"""Steps of a template; a published one takes thousands."""
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)  # the same as in render.py
GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
"""``{% generation %}`` marks what is trained on; its text is rendered as it stands, in a scope of its own."""


def environment() -> minijinja.Environment:
    """Return an environment with what transformers gives to chat templates; Python's methods of texts and lists too."""

    def refuse(message: str) -> None:
        raise minijinja.TemplateError(message)

    made = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=FUEL, auto_escape_callback=lambda _: False)
    made.add_filter("tojson", as_json)
    made.add_test("iterable", lambda value: isinstance(value, Iterable))  # MiniJinja's own takes none for one
    made.add_global("raise_exception", refuse)
    made.add_global("strftime_now", NOW.strftime)
    return made


def as_json(value: object, ensure_ascii: object = None, indent: int | None = None, **more: Any) -> str:  # noqa: ANN401
    """A value as JSON, with the options that transformers knows: ``separators`` and ``sort_keys`` too."""
    return json.dumps(value, ensure_ascii=bool(ensure_ascii), indent=indent, **more)


def bound() -> None:
    """Bound this process's memory and processor time, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not on Windows

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def render(template: str, values: Sequence[Mapping[str, object]]) -> list[dict[str, str | None]]:
    """Return for each set of variables the text, and what failed, if anything did."""
    results: list[dict[str, str | None]] = []
    text = GENERATION.sub(lambda tag: f"{tag[1]}{tag[2] or ''}with{tag[3]}", template)
    for some in values:
        try:
            results.append({"text": environment().render_str(text, **some), "failed": None})
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            results.append({"text": "", "failed": f"{type(error).__name__}: {error.args[0]!s:.500}"})
    return results


if __name__ == "__main__":
    document = json.loads(sys.stdin.buffer.read())
    bound()
    json.dump(render(document["template"], document["values"]), sys.stdout)
