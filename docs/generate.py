"""Write cli.md from the commands themselves: `python docs/generate.py`."""  # noqa: INP001  (a script)

import re
from collections.abc import Iterator
from pathlib import Path

import click

from converters import ALL
from exporter.cli import cli
from exporter.profiles import load_profile, profile_names

PAGE = Path(__file__).parent / "cli.md"
HEAD = """# Commands

Made by `python docs/generate.py` from the commands themselves; a test keeps it fresh. An option means the same wherever
it is. stdout is the result (with `--json` one JSON document and nothing else), stderr is everything else.

| exit status | when |
| --- | --- |
| 0 | done |
| 1 | made, but a level failed or could not be measured |
| 2 | could not be made, a proof failed, or wrong usage: the message says what to do |
| 130 | interrupted by Ctrl-C |
"""


def render() -> str:
    """The page: every command with its arguments and options, the families, the levels."""
    commands = [line for name, command in cli.commands.items() for line in describe(name, command)]
    families = [f"| {one.name} | {', '.join(one.architectures)} | {one.arch} |" for one in ALL]
    levels = [load_profile(name) for name in profile_names()]
    rows = [f"| {one.name} | {one.default} | {len(one.rules)} |" for one in levels]
    parts = [
        *commands,
        "\n## Families\n",
        "| family | architectures in config.json | architecture in GGUF |\n| --- | --- | --- |",
        *families,
        "\n## Levels\n",
        "`ggufx profiles LEVEL` prints one. A level may also be a file: [add a profile](add-a-profile.md).\n",
        "| level | type where no rule fits | rules |\n| --- | --- | --- |",
        *rows,
    ]
    return HEAD + "\n".join(parts) + "\n"


def describe(name: str, command: click.Command) -> Iterator[str]:
    """The lines of one command."""
    context = click.Context(command, info_name=f"ggufx {name}")
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    options = [one for one in command.params if isinstance(one, click.Option)]
    yield f"\n## {name}\n"
    yield f"    {' '.join(['ggufx', name, *pieces, *(['[OPTIONS]'] if options else [])])}\n"
    yield " ".join((command.help or "").split())
    if options:
        yield "\n| option | meaning |\n| --- | --- |"
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            yield "| `{}` | {} |".format(record[0], re.sub(r"([|<])", r"\\\1", record[1]))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
