"""The proof of a merge without an output: what changed by how much, and whether PEFT's live layers agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from exporter.checkpoint.write import slices
from exporter.errors import MergeError, ProofError, WeightError
from exporter.merge.coverage import Coverage, coverage, in_order, kind_of, missed_experts
from exporter.merge_check.comparison import Compared, columns, compare, outcome
from exporter.merge_check.sample import RESIZED, UNCHANGED, Sample, choose, how

if TYPE_CHECKING:
    from exporter.merge import Delta, Merged
    from exporter.run import Run

__all__ = ["check_merge", "require_passed"]


def check_merge(run: "Run", source: "Merged", progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Measure every change, and compare a sample of modules with PEFT's own layers; writes nothing.

    Args:
        run: the run.
        source: its finished weights.
        progress: called with the weights read, and all that are changed.

    Returns:
        Plain values: ``weights`` (each changed one's norms, layer by layer), ``untouched``, ``coverage`` (by kind),
        ``compared``, ``remarks``, ``status`` (``pass``, ``fail``, or ``unproved``: nothing could be compared), …

    MergeError for a run without an adapter, WeightError for a changed weight that is not finite.
    """
    if not run.adapters:
        raise MergeError(f"{run.path}: holds no adapter, so there is no merge to check; see `ggufx inspect`.")
    names = sorted(source.shapes(), key=in_order)
    changes = source.changes
    changed = [name for name in names if name in changes.by_weight]
    deltas = _read_all(source, changed, progress)
    weights = [_measured(name, source, deltas[name]) for name in changed]
    sample = choose(source, run.adapters, changed)
    compared = compare(run, source, sample.weights)
    rows = coverage(names, [name for name in changed if deltas[name].change > 0])
    return {
        "path": str(run.path),
        "base": run.base_name,
        "adapters": [str(adapter.folder) for adapter in run.adapters],
        "weights": weights,
        "untouched": [name for name in names if name not in changes.by_weight],
        "left_out": list(changes.left_out),
        "head": "tied" if source.tied else "of its own",
        "coverage": [_of_kind(row, weights, compared) for row in rows],
        "compared": [asdict(one) for one in compared],
        "remarks": list(filter(None, (missed_experts(rows), _still(weights), *_not_proved(sample, compared)))),
        "status": outcome(compared),
    }


def _read_all(source: "Merged", names: Sequence[str], progress: Callable[[int, int], None]) -> "Mapping[str, Delta]":
    """Read every row of some weights; how much each changed."""
    shapes = source.shapes()
    for done, name in enumerate(names):
        progress(done, len(names))
        for start, stop in slices(shapes[name][0], columns(shapes[name])):
            source.read(name, start, stop)
    progress(len(names), len(names))
    return source.deltas()


def require_passed(document: Mapping[str, Any]) -> None:
    """ProofError where a weight differs from PEFT's."""
    wrong = [one for one in document["compared"] if one["status"] == "fail"]
    if wrong:
        one = max(wrong, key=lambda one: one["difference"] or 0.0)
        by = one["detail"]
        if one["difference"] is not None:
            by = f"differs by {one['difference']:.3g}, allowed are {one['allowed']:.3g}{by and f' ({by})'}"
        raise ProofError(
            f"{document['path']}: {len(wrong)} of {len(document['compared'])} weights are not as PEFT's layer has "
            f"them: {one['weight']} {by}. The merge of this adapter is wrong, here or in the installed PEFT: do not "
            "export it, and report its adapter_config.json."
        )


def _measured(name: str, source: "Merged", delta: "Delta") -> dict[str, Any]:
    """One changed weight: what was done to it, and how large it is."""
    if not isfinite(delta.change) or not isfinite(delta.weight):
        raise WeightError(f"{name}: holds NaN or infinity. The training diverged, or a file is damaged.")
    return {
        "weight": name,
        "how": how(name, source),
        "delta": sqrt(delta.change),
        "norm": sqrt(delta.weight),
        "relative": delta.relative,
    }


def _of_kind(row: Coverage, weights: Sequence[Mapping[str, Any]], compared: Sequence[Compared]) -> dict[str, Any]:
    """One kind of weight: how many changed, by how much at least and at most, how many were compared."""
    relative = [one["relative"] for one in weights if kind_of(one["weight"]) == row.kind]
    beside = [one for one in compared if kind_of(one.weight) == row.kind and one.status != "skipped"]
    return asdict(row) | {
        "smallest_relative": min(relative, default=None),
        "largest_relative": max(relative, default=None),
        "compared": len(beside),
    }


def _still(weights: Sequence[Mapping[str, Any]]) -> str | None:
    """What is to be said of weights that the adapter names and leaves as they were."""
    told = [one for one in weights if one["how"] != UNCHANGED and RESIZED not in one["how"]]
    still = [one["weight"] for one in told if one["delta"] == 0]
    if not still:
        return None
    return (
        f"{len(still)} of the weights that the adapter names are as before, as where a lora_B is zero: {still[0]} first"
    )


def _not_proved(sample: Sample, compared: Sequence[Compared]) -> list[str]:
    """What is to be said of kinds of weights, and of ranks and alphas, of which none was compared."""
    done = {kind_of(one.weight) for one in compared if one.status != "skipped"}
    skipped = {kind_of(one.weight): one for one in compared if one.status == "skipped"}
    remarks = [
        f"no {kind} was compared with PEFT's layer: {one.detail}" for kind, one in skipped.items() if kind not in done
    ]
    if sample.pairs < sample.all_pairs:
        remarks.append(f"compared are {sample.pairs} of {sample.all_pairs} pairs of rank and alpha")
    return remarks
