"""A checked merge as a table that a terminal shows."""

from collections.abc import Sequence
from typing import Any

from exporter.text import printable

LEGEND = """‖·‖ is the Frobenius norm, Δ what training added to the base's weight W. `difference` is the largest of all
numbers of a weight; `allowed` is 2^-22 of the largest number in W or Δ: what float32 sums in another order."""
MOST = 10
"""Changed weights that a reader is shown, those with the largest relative changes."""


def render(document: dict[str, Any]) -> str:
    """The result and the remarks first, then each kind of weight, the largest changes, and the comparison."""
    largest = sorted(document["weights"], key=lambda one: -one["relative"])[:MOST]
    weights = [
        (one["weight"], one["how"], f"{one['delta']:.4g}", f"{one['norm']:.4g}", f"{one['relative']:.3g}")
        for one in largest
    ]
    compared = [
        (one["weight"], one["status"], _number(one["difference"]), _number(one["allowed"]), one["detail"])
        for one in document["compared"]
    ]
    kinds = [
        (row["kind"], f"{row['changed']} of {row['weights']}", _layers(row), _range(row), str(row["compared"]))
        for row in document["coverage"]
    ]
    tables = [
        _table(("kind of weight", "changed", "layers", "‖Δ‖/‖W‖", "compared"), kinds, right=(1, 2, 3, 4)),
        _table((_largest(document), "how", "‖Δ‖", "‖W‖", "‖Δ‖/‖W‖"), weights, right=(2, 3, 4)),
        _table(("compared with PEFT's layer", "result", "difference", "allowed", ""), compared, right=(2, 3)),
    ]
    lines = [
        f"merge: {document['status']}",
        f"{len(document['weights'])} weights changed, {len(document['untouched'])} untouched, head {document['head']}",
        _agreement(document),
        *_said(document),
        *(f"left out: {name}, of a part that is not exported" for name in document["left_out"]),
        *(f"remark: {text}" for text in document["remarks"]),
    ]
    return "\n\n".join(["\n".join(map(printable, lines)), *tables, LEGEND])


def _largest(document: dict[str, Any]) -> str:
    """What heads the column of changed weights: how many of them follow, and where all are."""
    changed = len(document["weights"])
    return f"the {MOST} that changed most (--json: all {changed})" if changed > MOST else "changed weight"


def _agreement(document: dict[str, Any]) -> str:
    """How many of the changed weights were compared, and how far the worst is off."""
    beside = [one for one in document["compared"] if one["difference"] is not None]
    changed = len(document["weights"])
    if not beside:
        why = "; ".join(sorted({one["detail"] for one in document["compared"]}))
        return f"compared with PEFT: none of {changed} changed weights, so nothing is proved: {why}"
    worst = max(beside, key=lambda one: (one["difference"] / (one["allowed"] or 1e-45), one["difference"]))
    found = f"{worst['difference']:.3g}, where {worst['allowed']:.3g} is allowed" if worst["difference"] else "0"
    return f"compared with PEFT: {len(beside)} of {changed} changed weights, largest difference {found}"


def render_written(document: dict[str, Any]) -> str:
    """What was made of a merged checkpoint, and where it is."""
    made = f"{document['tensors']} tensors in {document['dtype']}, {document['bytes']:,} bytes, head {document['head']}"
    read = f"{document['compared']} of {document['weights']} weights"
    lines = [made, f"{read} read back from the new files (first and last rows), equal to what was meant"]
    lines += [f"not copied: {printable(name)} of the base, no short text" for name in document["not_copied"]]
    return "\n".join([*lines, *map(printable, _said(document)), "", printable(document["folder"])])


def _said(document: dict[str, Any]) -> list[str]:
    """What the adapter lies over, and the run's notes and warnings; nothing where the document has none of these."""
    over = [f"over: {document['over']}"] if document.get("over") else []
    notes, warnings = document.get("notes", ()), document.get("warnings", ())
    return [*over, *(f"note: {text}" for text in notes), *(f"warning: {text}" for text in warnings)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> str:
    """Aligned columns, two blanks between; columns of numbers to the right. Names cannot steer the terminal."""
    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
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


def _range(row: dict[str, Any]) -> str:
    """The least and the largest of a kind's relative changes; one number where they are the same."""
    ends = dict.fromkeys(_number(row[key]) for key in ("smallest_relative", "largest_relative"))
    return " .. ".join(ends)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
