"""A checked merge as a table that a terminal shows."""

from collections.abc import Sequence
from typing import Any


def render(document: dict[str, Any]) -> str:
    """Every changed weight with its norms, each kind of weight with its layers, the comparison, the remarks."""
    weights = [
        (one["weight"], one["how"], f"{one['delta']:.4g}", f"{one['norm']:.4g}", f"{one['relative']:.3g}")
        for one in document["weights"]
    ]
    kinds = [(row["kind"], f"{row['changed']} of {row['weights']}", _layers(row)) for row in document["coverage"]]
    compared = [
        (one["weight"], one["status"], _number(one["difference"]), _number(one["allowed"]), one["detail"])
        for one in document["compared"]
    ]
    parts = [
        _table(("changed weight", "how", "‖Δ‖", "‖W‖", "‖Δ‖/‖W‖"), weights, right=(2, 3, 4)),
        _table(("kind of weight", "changed", "layers"), kinds, right=(1, 2)),
        _table(("compared with PEFT's layer", "result", "difference", "allowed", ""), compared, right=(2, 3)),
        f"{len(weights)} weights changed, {len(document['untouched'])} untouched, head {document['head']}",
        *(f"left out: {name}, of a part that is not exported" for name in document["left_out"]),
        *(f"remark: {text}" for text in document["remarks"]),
        f"merge: {document['status']}",
    ]
    return "\n\n".join(parts[:3]) + "\n\n" + "\n".join(parts[3:])


def render_written(document: dict[str, Any]) -> str:
    """What was made of a merged checkpoint, and where it is."""
    made = f"{document['tensors']} tensors in {document['dtype']}, {document['bytes']:,} bytes, head {document['head']}"
    return f"{made}; {document['compared']} weights read back\n\n{document['folder']}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> str:
    """Aligned columns, two blanks between; columns of numbers to the right. Names cannot steer the terminal."""
    lines = [[_printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _layers(row: dict[str, Any]) -> str:
    return f"{row['layers_changed']} of {row['layers']}" if row["layers"] else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
