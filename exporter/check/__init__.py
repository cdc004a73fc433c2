"""The proofs of a finished file: what it holds and computes, against the run it was made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.check.bounds import BOUNDS
from exporter.check.contents import check_contents
from exporter.check.expected import Expected, expect
from exporter.check.ids import check_ids
from exporter.check.logits import check_logits
from exporter.check.sight import check_sight
from exporter.check.templates import check_bos, check_template
from exporter.check.values import Check
from exporter.errors import EngineError, ProofError
from exporter.llamacpp import Engine, Shape
from exporter.verify.text import read_text

if TYPE_CHECKING:
    from exporter.merge import Merged
    from exporter.plan import Plan
    from exporter.run import Run

__all__ = ["Asked", "Check", "check_file", "prove", "require_passed"]

Progress = Callable[[int, int], None]
FEW = 8
"""Tokens that are decoded to prove that a file computes."""


@dataclass(frozen=True)
class Asked:
    """What to prove beside: on a text of the user's too; the logits, in how many threads; projectors."""

    text: Path | None = None
    logits: bool = False
    threads: int = 0
    projectors: Sequence[Path] = ()


def prove(
    run: "Run", plan: "Plan", files: Sequence[Path], progress: Progress, *, asked: Asked = Asked()
) -> list[dict[str, object]]:
    """Prove that llama.cpp loads each file whole, and makes the run's token ids, texts of conversations, and logits.

    Args:
        run: whose tokenizer, template and model are the reference.
        plan: what the files were made by.
        files: the finished files: the plan's levels, and its reference where there is one of its own.
        progress: called with how many are proved, and how many there are.
        asked: what beside.

    Returns:
        The report's checks.

    Raises:
        ProofError: a file fails.
    """
    kept = files[: plan.levels or None]  # a reference of its own is not; without levels it is what is asked for
    levels = [output.level for output in plan.outputs[: plan.levels]]
    expected = expect(run, plan, _text(asked.text))
    rows: list[Check] = []
    for done, file in enumerate(kept):
        progress(done, len(kept))
        rows = _of_file(file, expected)
        _require(file, rows)
    for projector in asked.projectors:
        rows.append(check_sight(min(kept, key=lambda file: file.stat().st_size), projector))
        _require(projector, rows[-1:])
    checks = [check.as_document() | {"levels": levels} for check in rows]
    if asked.logits:
        checks += _logits(run, plan, files, asked)
    progress(len(kept), len(kept))
    return checks


def check_file(what: "tuple[Run, Merged, Plan]", file: Path, asked: Asked) -> list[Check]:
    """Check a finished file against a run, its finished weights and its plan.

    Nothing is raised for a proof that fails.

    Raises:
        TokenizerError: The run's own tokenizer, or the text, does not allow a comparison.
    """
    run, source, plan = what
    load, *checks = _of_file(file, expect(run, plan, _text(asked.text)))
    if load.status == "fail":
        return [load]
    logits = check_logits(file, run, plan, text=asked.text, threads=asked.threads)
    return [load, *check_contents(file, plan, source), *checks, logits]


def require_passed(file: Path, checks: Sequence[Check]) -> None:
    """ProofError where a check failed."""
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        raise ProofError(
            f"{file.name.removesuffix('.partial')}: is not this run's, by the proofs of "
            f"{', '.join(check.name for check in failed)}. Export the run again, or give the run that the file was "
            "made from with --against."
        )


def _of_file(file: Path, expected: Expected) -> list[Check]:
    """The checks of one file that every export makes; only the first where llama.cpp does not load it."""
    try:
        with Engine(file, check=True) as engine:
            return [_load(engine), *(one(engine, expected) for one in (check_ids, check_template, check_bos))]
    except EngineError as error:
        return [Check("load", "fail", f"llama.cpp does not load the finished file. {error}")]


def _load(engine: Engine) -> Check:
    """Whether a few tokens give logits that are finite."""
    ids = engine.tokenize(b"The quick brown fox", add_special=True, parse_special=False)[:FEW]
    ids = ids if len(ids) else np.asarray([engine.facts.bos or 0], np.int32)
    engine.start(Shape(context=64, batch=FEW, outputs=FEW))
    logits = np.empty((engine.decode(ids, 0), engine.facts.n_vocab), np.float32)
    engine.rows(0, logits)
    if not np.isfinite(logits).all():
        why = "the weights are damaged, or too large for the computation; compare with the model in transformers"
        return Check("load", "fail", f"the first tokens give logits that are not finite: {why}")
    return Check("load", "pass", "llama.cpp loads each file whole and decodes with it")


def _logits(run: "Run", plan: "Plan", files: Sequence[Path], asked: Asked) -> list[dict[str, object]]:
    """The logits proof of the first file that is not quantized. ProofError where it fails."""
    outputs = zip(plan.outputs, files, strict=False)
    level, file = next(((one.level, file) for one, file in outputs if one.level in BOUNDS), ("", None))
    if file is None:
        check = Check("logits", "skipped", "no file in f32, f16 or bf16 was written")
    else:
        check = check_logits(file, run, plan, text=asked.text, threads=asked.threads)
        _require(file, [check])
    return [check.as_document() | {"levels": [level] if level else []}]


def _require(file: Path, checks: Sequence[Check]) -> None:
    """ProofError where a check of a file that is being made failed, with what differs."""
    for check in checks:
        if check.status == "fail":
            name = file.name.removesuffix(".partial")
            raise ProofError(f"{name}: the proof of {check.name} failed: {check.detail}. The file is not kept.")


def _text(path: Path | None) -> str | None:
    return read_text(path).data.decode() if path is not None else None
