"""A chat template rendered, in a process of its own: run as a file, JSON on stdin, JSON on stdout.

It is given ``{"template": text, "values": [variables, …]}`` and answers a list of ``{"text": …, "failed": … or null}``.
"""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 3  # of processor time; a published template takes hundredths of one
MEMORY = 1 << 30
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""What a template takes for the present: one moment, so that a result can be repeated."""


class Generation(Extension):
    """``{% generation %}`` marks what is trained on; its text is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Any) -> nodes.Node:  # noqa: ANN401 - jinja2's parser
        """The text between the tags, as a block that changes nothing."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def environment() -> Environment:
    """Return a sandbox with what transformers gives to chat templates."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    made.filters["tojson"] = as_json  # jinja's own escapes HTML
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = NOW.strftime
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
    for some in values:
        try:
            results.append({"text": environment().from_string(template).render(**some), "failed": None})
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            results.append({"text": "", "failed": f"{type(error).__name__}: {str(error)[:500]}"})
    return results


if __name__ == "__main__":
    document = json.loads(sys.stdin.buffer.read())
    bound()
    json.dump(render(document["template"], document["values"]), sys.stdout)
