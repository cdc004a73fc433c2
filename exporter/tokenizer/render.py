"""A chat template rendered, in a process of its own: run as a file, JSON on stdin, JSON on stdout.

It is given ``{"engine": name, "template": text, "values": [variables, …]}`` and answers a list of ``{"text": …,
"failed": … or null}``. The engines are jinja2, sandboxed as transformers uses it, and MiniJinja, which shares no code
with it.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import minijinja
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 3  # of processor time; a published template takes hundredths of one
MEMORY = {"jinja2": 1 << 30, "minijinja": 4 << 30}  # address space; MiniJinja reserves much and takes little
FUEL = 10_000_000
"""Steps that MiniJinja gives a template; a published one takes thousands."""
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
"""What a template takes for the present: one moment, so that a result can be repeated."""
GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
"""``{% generation %}`` marks what is trained on; its text is rendered as it stands, in a scope of its own."""
Render = Callable[[Mapping[str, object]], str]


class Generation(Extension):
    """The same mark for jinja2."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Any) -> nodes.Node:  # noqa: ANN401 - jinja2's parser
        """The text between the tags, as a block that changes nothing."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def by_jinja2(template: str) -> Render:
    """The template in a sandbox with what transformers gives to chat templates."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    made.filters["tojson"] = as_json  # jinja's own escapes HTML
    made.globals |= {"raise_exception": _refuse(TemplateError), "strftime_now": NOW.strftime}
    return lambda values: made.from_string(template).render(**values)


def by_minijinja(template: str) -> Render:
    """The template with the same things to use; Python's methods of texts and lists are MiniJinja's own."""
    text = GENERATION.sub(lambda tag: f"{tag[1]}{tag[2] or ''}with{tag[3]}", template)
    made = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=FUEL, auto_escape_callback=lambda _: False)
    made.add_filter("tojson", as_json)
    made.add_test("iterable", lambda value: isinstance(value, Iterable))  # MiniJinja's own takes none for one
    made.add_global("raise_exception", _refuse(minijinja.TemplateError))
    made.add_global("strftime_now", NOW.strftime)
    return lambda values: made.render_str(text, **values)


ENGINES: Mapping[str, Callable[[str], Render]] = {"jinja2": by_jinja2, "minijinja": by_minijinja}


def _refuse(kind: type[Exception]) -> Callable[[str], None]:
    def refuse(message: str) -> None:
        raise kind(message)

    return refuse


def as_json(value: object, ensure_ascii: object = None, indent: int | None = None, **more: Any) -> str:  # noqa: ANN401
    """A value as JSON, with the options that transformers knows: ``separators`` and ``sort_keys`` too."""
    return json.dumps(value, ensure_ascii=bool(ensure_ascii), indent=indent, **more)


def bound(engine: str) -> None:
    """Bound this process's memory and processor time, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not on Windows

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY[engine], MEMORY[engine]))


def render(
    template: str, values: Sequence[Mapping[str, object]], engine: str = "jinja2"
) -> list[dict[str, str | None]]:
    """Return for each set of variables the text, and what failed, if anything did."""
    results: list[dict[str, str | None]] = []
    for some in values:
        try:
            results.append({"text": ENGINES[engine](template)(some), "failed": None})
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            said = error.args[0] if error.args and engine == "minijinja" else error
            results.append({"text": "", "failed": f"{type(error).__name__}: {said!s:.500}"})
    return results


if __name__ == "__main__":
    document = json.loads(sys.stdin.buffer.read())
    bound(document["engine"])
    json.dump(render(document["template"], document["values"], document["engine"]), sys.stdout)
