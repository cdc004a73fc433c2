"""A report as the table that a terminal shows."""

from collections import Counter
from io import StringIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exporter.report.levels import ratio, verdict
from exporter.report.numbers import NOT_MEASURED, bits, percent, plain, size, with_error
from exporter.report.schema import Check, Document, Level
from exporter.text import printable

HEAD = ("level", "size", "bpw", "perplexity", "ratio", "KLD", "p99", "top-1 %", "verdict")
LEGEND = (
    "ratio: perplexity / the reference's. KLD: mean KL divergence from the reference, in nats; p99: what 99 % of",
    "tokens stay below. top-1: how often the likeliest token is the reference's. ±: one standard error over windows.",
)
FIRST, LAST = 0, len(HEAD) - 1
TIGHT = "±"
FOLDED_NAME, FOLDED_VERDICT = 8, 9


def render_table(document: Document, width: int = 100) -> str:
    """Return one line for each level, columns aligned, and below them every error and warning in full.

    Names and verdicts fold to keep within ``width`` columns; numbers never do: a line is longer where they need it.
    '-' stands for what was not measured.
    """
    rows = [_row(level) for level in document["levels"]]
    widest = [max(cell_len(line[i]) for line in (HEAD, *rows)) for i in range(len(HEAD))]
    least = sum(widest[FIRST + 1 : LAST]) + min(widest[FIRST], FOLDED_NAME) + min(widest[LAST], FOLDED_VERDICT)
    gap = 2 if least + 2 * LAST <= width else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="")
    for index, name in enumerate(HEAD):
        edge = index in {FIRST, LAST}
        table.add_column(name, justify="left" if edge else "right", no_wrap=not edge, overflow="fold")
    for row in rows:
        # Text, not str: in a str rich would read "[...]" as markup.
        table.add_row(*map(Text, row))
    stream = StringIO()
    Console(file=stream, width=max(width, least + gap * LAST), color_system=None, force_terminal=False).print(table)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([*lines, *_remarks(document)]) + "\n"


def _row(level: Level) -> tuple[str, ...]:
    perplexity, kld, top1 = level.get("perplexity"), level.get("kld"), level.get("top1")
    cells = (
        printable(level["quant"]),
        size(level["bytes"]),
        bits(level.get("bpw")),
        with_error(perplexity["value"], perplexity.get("error"), TIGHT) if perplexity else "-",
        ratio(perplexity, TIGHT),
        with_error(kld["mean"], kld.get("error"), TIGHT) if kld else "-",
        plain(kld.get("p99"), 3) if kld else "-",
        percent(top1["value"], top1.get("error"), TIGHT) if top1 else "-",
    )
    return (*("-" if cell == NOT_MEASURED else cell for cell in cells), verdict(level))


def _remarks(document: Document) -> list[str]:
    errors = [f"error: {level['quant']}: {level['error']}" for level in document["levels"] if level.get("error")]
    warnings = [f"warning: {text}" for text in document.get("warnings") or ()]
    notes = ["", *LEGEND] if any(level.get("kld") for level in document["levels"]) else []
    return [
        *_reference(document),
        *notes,
        *_substitutes(document),
        *_files(document),
        *_proofs(document),
        *(line for text in errors + warnings for line in ["", *map(printable, text.splitlines())]),
    ]


def _files(document: Document) -> list[str]:
    """The names of the levels' files, and of the projector's."""
    seen = document.get("projector")
    files = [(level["quant"], level["file"]) for level in document["levels"]]
    files += [(f"projector {seen['quant']}", f"{seen['file']}, {size(seen['bytes'])}")] if seen else []
    width = max((cell_len(printable(name)) for name, _ in files), default=0)
    return ["", *(f"{printable(name):<{width}}  {printable(file)}" for name, file in files)]


def _proofs(document: Document) -> list[str]:
    """Which proofs the files passed, and why others were skipped."""
    checks = document.get("checks") or []
    passed = [check["name"] + _only(check, document) for check in checks if check["status"] == "pass"]
    skipped = [f"{check['name']} not proved: {check.get('detail')}" for check in checks if check["status"] == "skipped"]
    return ["", *([f"proved: {', '.join(passed)}"] if passed else []), *map(printable, skipped)] if checks else []


def _only(check: Check, document: Document) -> str:
    """Of which levels a proof is, where it is not of all."""
    levels, every = check.get("levels") or [], [level["quant"] for level in document["levels"]]
    if not levels or set(levels) >= set(every):
        return ""
    own = f" (of {', '.join(levels)})"
    return own if set(levels) <= set(every) else f"{own[:-1]}, the reference that is not kept)"


def _reference(document: Document) -> list[str]:
    """What the ratios are of: the reference's perplexity, and on what it was measured."""
    reference, on = document.get("reference"), document.get("measured_on")
    perplexity = reference.get("perplexity") if reference else None
    if not reference or not perplexity or not on:
        return []
    value = with_error(perplexity["value"], perplexity.get("error"), TIGHT)
    how = ", as llama-perplexity does" if on.get("mode") == "llama.cpp" else ""
    windows = "1 window" if on.get("chunks") == 1 else f"{on.get('chunks')} windows"
    where = f"{windows} of {on.get('context')} tokens of {on['text']}"
    return ["", printable(f"reference {reference['kind']}: perplexity {value} on {where}{how}")]


def _substitutes(document: Document) -> list[str]:
    """A line for each level that holds other types than its profile wanted."""
    lines = []
    for level in document["levels"]:
        kinds = Counter((one["wanted"], one["got"], one.get("why")) for one in level.get("fallbacks") or ())
        parts = [f"{n} x {got} for {wanted} ({why})" for (wanted, got, why), n in kinds.items()]
        lines += [printable(f"{level['quant']}: {', '.join(parts)}")] if parts else []
    head = "other types than wanted, whose blocks (256 weights in K-quants) do not fill the rows:"
    return ["", head, *lines] if lines else []
