"""What a report says of the projector's file, which stands beside the text model's."""

from exporter.report.blocks import Block, Cell, Code, Facts, Fold, Table
from exporter.report.numbers import count, share
from exporter.report.schema import ProjectorFile


def projector_blocks(seen: ProjectorFile | None) -> tuple[Block, ...]:
    """The file, what it holds, and what it is made of beside the run's weights; nothing where there is none."""
    if not seen:
        return ()
    total = sum(seen["types"].values())
    types = sorted(seen["types"].items(), key=lambda item: -item[1])
    rows: list[tuple[str, tuple[Cell, ...]]] = [
        ("File", (Code(seen["file"]),)),
        ("Level", (Code(seen["quant"]),)),
        ("Bytes", (count(seen["bytes"]),)),
        ("SHA-256", (Code(seen["sha256"]),)),
        ("Share of the weights in each type", (", ".join(f"{kind} {share(part, total)}" for kind, part in types),)),
        *((f"SHA-256 of {name}", (Code(digest),)) for name, digest in (seen.get("processor") or {}).items()),
    ]
    others = tuple(
        (Code(one["tensor"]), Code(one["wanted"]), Code(one["got"]), one.get("why") or "not said")
        for one in seen.get("fallbacks") or ()
    )
    table = Table(("Tensor", "Wanted", "Got", "Why"), others)
    return (Facts(tuple(rows)), *([Fold(f"{len(others)} tensors in another type", table)] if others else []))
