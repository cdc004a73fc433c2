"""A report as Markdown: GitHub's dialect, readable as plain text too."""

import re

from exporter.report.blocks import Alert, Block, Cell, Code, Facts, Fold, Mark, Notes, Picture, Table, Text
from exporter.report.content import sections
from exporter.report.of_run import title
from exporter.report.schema import Document
from exporter.text import printable, printable_lines

SPECIAL = re.compile(r"([\\`*\[\]|~$])")
EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
BREAKS = re.compile(r"[\r\n]+")
TICKS = re.compile(r"`+")


def render_markdown(document: Document) -> str:
    """Return the report as Markdown, ending with a line feed."""
    model, run = title(document)
    parts = [f"# {escape(model)}: {escape(run)}" if run else f"# {escape(model)}"]
    for section in sections(document):
        blocks = [text for text in map(_block, section.blocks) if text]
        if blocks:
            parts += [f"## {escape(section.title)}", *blocks]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is, on one line."""
    line = printable(BREAKS.sub(" ", text))
    line = EDGE_UNDERSCORE.sub(r"\\_", SPECIAL.sub(r"\\\1", line))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Return ``text`` as a code span that may stand in a table: one line, with a fence longer than any run of ticks."""
    line = printable(BREAKS.sub(" ", text))
    if not line.strip():
        return escape(line)
    fence = _fence(line, 1)
    space = " " if len(fence) > 1 else ""
    # A bar ends the cell of a table even within a code span, unless it is escaped.
    return f"{fence}{space}{line.replace('|', chr(92) + '|')}{space}{fence}"


def _block(block: Block) -> str:  # noqa: PLR0911 - one return for each kind of block
    match block:
        case Table():
            return _table(block)
        case Facts():
            return "\n".join(f"- {escape(name)}: {', '.join(map(_cell, values))}" for name, values in block.rows)
        case Text():
            return escape(block.text)
        case Notes():
            return "\n".join(f"- **{escape(term)}**: {escape(text)}" for term, text in block.rows)
        case Alert():
            return f"**{escape(block.title)}**\n\n{_fenced(block.text)}" if block.title else f"> {escape(block.text)}"
        case Fold():
            content = _table(block.content) if isinstance(block.content, Table) else _fenced(block.content.text)
            return f"<details>\n<summary>{escape(block.summary)}</summary>\n\n{content}\n\n</details>"
        case Picture():
            return ""


def _table(table: Table) -> str:
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.head))]
    rows = [[escape(name) for name in table.head], rule, *([_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(cell: Cell) -> str:
    match cell:
        case Code():
            return code(cell.text)
        case Mark():
            return f"**{escape(cell.text)}**"
        case str():
            return escape(cell)


def _fenced(text: str) -> str:
    fence = _fence(text, 3)
    return f"{fence}text\n{printable_lines(text)}\n{fence}"


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in TICKS.findall(text)), default=0)
    return "`" * max(least, longest + 1)
