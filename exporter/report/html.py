"""A report as one page: no script, no other file, nothing from the network."""

from functools import cache
from importlib.resources import files

from exporter.report.blocks import Alert, Block, Cell, Code, Facts, Fold, Mark, Notes, Picture, Section, Table, Text
from exporter.report.content import sections
from exporter.report.numbers import NOT_MEASURED
from exporter.report.of_run import title
from exporter.report.picture import draw_pictures, not_drawn
from exporter.report.schema import Document
from exporter.text import html_text as escape

CLASSES = {"pass": "pass", "fail": "fail", "error": "error", "undecided": "undecided"}
NARROW = 3
"""Columns that a phone shows at once."""
SIGNS = {"pass": "✓ ", "fail": "✗ ", "error": "✗ ", "undecided": "? "}
# The page may show its own style and nothing else, whatever a name in it holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_html(document: Document) -> str:
    """Return the report as a whole HTML page, the same bytes for the same document."""
    model, run = title(document)
    name = f"{model}: {run}" if run else model
    under = f"<small>{escape(run)}</small>" if run else ""
    created = f"Created {document['created']} by ggufx {document['ggufx']}"
    body = "\n".join(_section(section, document) for section in sections(document))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(name)}</title>
<style>
{_style()}</style>
</head>
<body>
<header>
<h1>{escape(model)}{under}</h1>
<p>{escape(created)}</p>
</header>
<main>
{body}
</main>
</body>
</html>
"""


@cache
def _style() -> str:
    return files("exporter.report").joinpath("page.css").read_text(encoding="utf-8")


def _section(section: Section, document: Document) -> str:
    blocks = "\n".join(_block(block, document) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>"


def _block(block: Block, document: Document) -> str:  # noqa: PLR0911 - one return for each kind of block
    match block:
        case Table():
            return _table(block)
        case Facts():
            rows = ((escape(name), ", ".join(map(_cell, values))) for name, values in block.rows)
            return _list("facts", "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in rows))
        case Text():
            return f"<p>{_words(block.text)}</p>"
        case Notes():
            return _list("notes", "".join(f"<dt>{_words(t)}</dt><dd>{_words(s)}</dd>\n" for t, s in block.rows))
        case Alert():
            name = f"<strong>{escape(block.title)}</strong>" if block.title else ""
            return f'<div class="alert {block.kind}">{name}<pre>{escape(block.text)}</pre></div>'
        case Fold():
            content = block.content
            inner = _table(content) if isinstance(content, Table) else f"<pre>{escape(content.text)}</pre>"
            return f"<details>\n<summary>{escape(block.summary)}</summary>\n{inner}\n</details>"
        case Picture():
            return _figure(document)


def _words(text: str) -> str:
    """Return running text, in which a number keeps its % beside it."""
    return escape(text).replace(" %", "&nbsp;%")


def _list(kind: str, rows: str) -> str:
    return f'<dl class="{kind}">\n{rows}</dl>'


def _table(table: Table) -> str:
    def attribute(column: int) -> str:
        return ' class="n"' if column in table.numeric else ""

    head = "".join(f'<th scope="col"{attribute(i)}>{escape(name)}</th>' for i, name in enumerate(table.head))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{attribute(i)}>{_cell(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    # A region with a tab stop can be scrolled sideways with the keyboard too.
    wide = " wide" if len(table.head) > NARROW else ""
    box = f'<div class="box{wide}" role="region" tabindex="0" aria-label="table">'
    return f"{box}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"


def _cell(cell: Cell) -> str:
    match cell:
        case Code():
            return f"<code>{escape(cell.text)}</code>"
        case Mark():
            sign = SIGNS.get(cell.text, "")
            return f'<span class="mark {CLASSES.get(cell.text, "none")}">{sign}{escape(cell.text)}</span>'
        case str():
            text = escape(cell)
            return f'<span class="absent">{text}</span>' if cell == NOT_MEASURED else text


def _figure(document: Document) -> str:
    panels = draw_pictures(document)
    caption = (
        "Further left is smaller, lower is closer to the reference. A bar is one standard error on each side; where "
        "there is none, it is smaller than the point, or not known."
    )
    missing = not_drawn(document)
    if missing:
        caption += f" Not drawn, since not measured: {', '.join(missing)}."
    drawn = "\n".join(panels)
    return f'<figure>\n<div class="panels">\n{drawn}\n</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>'
