"""The proof of a merge without an output: what changed by how much, and whether PEFT's live layers agree."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any

from converters.spec import EMBEDDING, HEAD
from exporter.checkpoint.write import slices
from exporter.errors import MergeError, ProofError, WeightError
from exporter.merge.coverage import coverage, kind_of, missed_experts
from exporter.merge_check.live import Laid, in_double, live, needed
from exporter.source import open_source

if TYPE_CHECKING:
    import torch

    from exporter.merge import Merged
    from exporter.merge.values import Change
    from exporter.run import Run

__all__ = ["check_merge", "require_passed"]

SAMPLE = 8
"""Modules that are compared, where there are fewer kinds."""
MOST = 3 << 27
"""Numbers in one layer of PEFT's that is built: 1.6 GB in float32, of which some four copies are held."""
IN_DOUBLE = 4
"""How many times the memory a layer in float64 takes; 3.8 GB were measured with 66 million numbers."""
ALLOWED = 2.0**-22
"""Of the larger of the weight's and its change's largest value: what float32 sums in another order may differ by."""
UNCHANGED = "saved as it was"


@dataclass(frozen=True)
class Compared:
    """One weight beside PEFT's: the largest difference, and what is allowed."""

    weight: str
    status: str
    """``pass``, ``fail``, or ``skipped``: then ``detail`` says why."""
    difference: float | None = None
    allowed: float | None = None
    detail: str = ""


def check_merge(run: "Run", source: "Merged", progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Measure every change, and compare a sample of modules with PEFT's own layers; writes nothing.

    Args:
        run: the run.
        source: its finished weights.
        progress: called with the weights read, and all that are changed.

    Returns:
        Plain values: ``weights`` (each changed one's norms), ``untouched`` (names), ``coverage``, ``compared``,
        ``remarks``, ``left_out``, ``status``.

    Raises:
        MergeError: the run holds no adapter.
        WeightError: a changed weight is not finite.
    """
    if not run.adapters:
        raise MergeError(
            f"{run.path}: holds no adapter, so there is no merge to check. `ggufx inspect` says what it is."
        )
    shapes = source.shapes()
    changed = [name for name in shapes if name in source.changes.by_weight]
    _read_all(source, changed, progress)
    compared = _compare(run, source, changed)
    rows = coverage(shapes, [name for name in changed if source.deltas()[name].change > 0])
    return {
        "path": str(run.path),
        "base": run.base_name,
        "adapters": [str(adapter.folder) for adapter in run.adapters],
        "weights": [_measured(name, source) for name in changed],
        "untouched": [name for name in shapes if name not in source.changes.by_weight],
        "left_out": list(source.changes.left_out),
        "head": "tied" if source.tied else "of its own",
        "coverage": [asdict(row) for row in rows],
        "compared": [asdict(one) for one in compared],
        "remarks": _remarks(source, changed, missed_experts(rows)),
        "status": "pass" if _agrees(compared) else "fail",
    }


def _read_all(source: "Merged", names: list[str], progress: Callable[[int, int], None]) -> None:
    """Read every row of some weights, so that the source knows how much each changed."""
    for done, name in enumerate(names):
        progress(done, len(names))
        shape = source.shapes()[name]
        for start, stop in slices(shape[0], _columns(shape)):
            source.read(name, start, stop)
    progress(len(names), len(names))


def require_passed(document: dict[str, Any]) -> None:
    """ProofError where a weight differs from PEFT's, or none could be compared."""
    wrong = [one for one in document["compared"] if one["status"] == "fail"]
    if wrong:
        one = max(wrong, key=lambda one: one["difference"] or 0.0)
        by = one["detail"] or f"differs by {one['difference']:.3g}, allowed are {one['allowed']:.3g}"
        raise ProofError(
            f"{document['path']}: {len(wrong)} of {len(document['compared'])} weights are not as PEFT's layer has "
            f"them: {one['weight']} {by}. The merge of this adapter is wrong, here or in the installed PEFT: do not "
            "export it, and report its adapter_config.json."
        )
    if document["status"] == "fail":
        why = "; ".join(sorted({one["detail"] for one in document["compared"]}))
        raise ProofError(
            f"{document['path']}: no module could be compared with PEFT's layer, expected one at least: {why} Merge "
            "the run with PEFT, and compare the two by `ggufx verify`."
        )


def _agrees(compared: Iterable[Compared]) -> bool:
    """Whether something was compared, and none differs."""
    states = {one.status for one in compared}
    return "pass" in states and "fail" not in states


def _measured(name: str, source: "Merged") -> dict[str, Any]:
    """One changed weight: what was done to it, and how large it is."""
    delta = source.deltas()[name]
    if not isfinite(delta.change) or not isfinite(delta.weight):
        raise WeightError(f"{name}: holds NaN or infinity. The training diverged, or a file is damaged.")
    how = ", then ".join(
        _how(layer.changes.by_weight[name]) for layer in source.layers if name in layer.changes.by_weight
    )
    return {
        "weight": name,
        "how": how,
        "delta": sqrt(delta.change),
        "norm": sqrt(delta.weight),
        "relative": delta.relative,
    }


def _how(change: "Change") -> str:
    """What an adapter does to a weight, in a word or two."""
    words = {
        "replaced": change.replaced_by is not None and change.replaced_by != change.origin,
        "DoRA": change.factors is not None and change.factors.magnitude is not None,
        "added": (change.factors is not None and change.factors.magnitude is None) or change.added is not None,
        "rows replaced": change.tokens is not None,
        "merged by PEFT": change.whole is not None,
    }
    return " and ".join(word for word, fits in words.items() if fits) or UNCHANGED


def _remarks(source: "Merged", changed: list[str], missed: str | None) -> list[str]:
    """What a reader should look at."""
    still = [
        name
        for name in changed
        if source.deltas()[name].change == 0 and _how(source.changes.by_weight[name]) != UNCHANGED
    ]
    remark = (
        f"{len(still)} of the weights that the adapter names are as before, as where a lora_B is zero: {still[0]} first"
        if still
        else None
    )
    return [text for text in (missed, remark) if text]


def _compare(run: "Run", source: "Merged", changed: list[str]) -> list[Compared]:
    """A sample of the changed weights beside what PEFT makes of them."""
    base = open_source(replace(run, adapters=()))
    laid = [Laid(adapter, layer, run.family) for adapter, layer in zip(run.adapters, source.layers, strict=True)]
    compared: dict[str, Compared] = {}
    for name in _sample(source, changed):
        if name not in compared:
            compared |= {one.weight: one for one in _beside(name, base, laid, source)}
    return list(compared.values())


def _sample(source: "Merged", changed: list[str]) -> list[str]:
    """The first weight of each kind and way of changing; then the last ones, up to ``SAMPLE``."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in changed:
        kinds.setdefault((kind_of(name), _how(source.changes.by_weight[name])), []).append(name)
    first = [names[0] for names in kinds.values()]
    last = [names[-1] for names in kinds.values() if names[-1] not in first]
    return first + last[: max(SAMPLE - len(first), 0)]


def _beside(name: str, base: "Merged", laid: list[Laid], source: "Merged") -> list[Compared]:
    """A weight, and those in the same layer of PEFT's, compared."""
    mine = [one for one in laid if name in one.layer.changes.by_weight]
    shapes = base.shapes()
    try:
        names = dict.fromkeys(weight for one in mine for weight in needed(one, name))
        size = sum(prod(shapes.get(_stored(weight, shapes), ())) for weight in names)
        if size * (IN_DOUBLE if any(in_double(one, name) for one in mine) else 1) > MOST:
            return [
                Compared(name, "skipped", detail=f"{size / 1e6:,.0f} million numbers are too many to build it whole")
            ]
        before = {weight: _whole(base.read, _stored(weight, shapes), shapes) for weight in names}
        made: dict[str, torch.Tensor] = dict(before)
        for one in mine:
            made |= live(one, name, made)
    except MergeError as error:
        return [Compared(name, "skipped", detail=str(error))]
    ours = [weight for weight in made if weight in source.shapes()]
    return [
        _difference(weight, _whole(source.read, weight, source.shapes()), made[weight], before[weight])
        for weight in ours
    ]


def _difference(name: str, found: "torch.Tensor", expected: "torch.Tensor", before: "torch.Tensor") -> Compared:
    """Two finished weights, compared."""
    if found.shape != expected.shape:
        return Compared(name, "fail", detail=f"is {list(found.shape)}, PEFT's is {list(expected.shape)}")
    change = expected - before if before.shape == expected.shape else expected
    allowed = ALLOWED * max(float(before.abs().max()), float(change.abs().max()))
    difference = float((found - expected).abs().max())
    return Compared(name, "pass" if difference <= allowed else "fail", difference, allowed)


def _stored(name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    """Where the base holds a weight: the head of a tied one in its embedding."""
    return EMBEDDING if name == HEAD and name not in shapes else name


def _whole(
    read: Callable[[str, int, int], "torch.Tensor"], name: str, shapes: dict[str, tuple[int, ...]]
) -> "torch.Tensor":
    """A whole weight in float32. MergeError for one that the base does not hold."""
    import torch  # noqa: PLC0415  (slow to import)

    if name not in shapes:
        raise MergeError(f"{name} is not in the base's files, so PEFT's layer has nothing to be built around.")
    shape = shapes[name]
    return torch.cat([read(name, *rows) for rows in slices(shape[0], _columns(shape))])


def _columns(shape: tuple[int, ...]) -> int:
    """The numbers in a row; one in a vector's."""
    return shape[1] if len(shape) > 1 else 1
