"""Evaluate a reference and levels side by side, so that no logits need a place: in pieces, chunk by chunk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exporter.errors import EngineError
from exporter.llamacpp import Engine, Shape
from exporter.verify import compat, metrics
from exporter.verify.metrics import Logits, Scores, Values
from exporter.verify.text import Mode
from exporter.verify.windows import Windows

_PIECE = 1 << 26  # bytes of logits that one decode of a model may make
_BLOCK = 1 << 20  # bytes of a model's logits that are compared at a time: they stay in the processor's cache


def piece(windows: Windows, n_vocab: int, mode: Mode, threads: int) -> Shape:
    """How much a decode takes: a whole window, as llama-perplexity's; by default equal parts with few enough logits."""
    context = windows.ids.shape[1]
    if mode == "llama.cpp":
        return Shape(context, context, context - windows.first, threads)
    parts = min(-(-context * n_vocab * 4 // _PIECE), context)
    batch = -(-context // parts)
    return Shape(context, batch, batch, threads)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is evaluated together: the reference, the levels, on which windows, and how."""

    base: Engine
    sides: tuple["Side", ...]
    windows: Windows
    mode: Mode
    shape: Shape


class Side:
    """A level while it is measured: its process, its scores, and the error that stopped it.

    A level that is the reference's own file has no process: it is given the reference's logits.
    """

    def __init__(self, file: Path, windows: Windows, n_vocab: int) -> None:
        self.file = file
        self.scores = Scores.empty(len(windows.ids), windows.scored)
        self.error: str | None = None
        self._engine: Engine | None = None
        self._buffer = np.empty((block_rows(n_vocab), n_vocab), np.float32)

    def open(self, base: Engine, text: bytes, shape: Shape) -> None:
        """Load the file, and compare its vocabulary with the reference's."""
        try:
            if self.file.samefile(base.path):
                return
            self._engine = Engine(self.file)
            _compare_vocabularies(base, self._engine, text)
            self._engine.start(shape)
        except OSError as error:
            self.error = f"{self.file}: cannot be read: {error.strerror}. Give the path of a GGUF file."
        except EngineError as error:
            self._stop(error)

    def decode(self, ids: npt.NDArray[np.int32], start: int, skipped: int) -> None:
        """Run a piece of a window, unless the level was stopped."""
        if self.error is None and self._engine is not None:
            try:
                self._engine.decode(ids, start, skipped)
            except EngineError as error:
                self._stop(error)

    def logits(self, row: int, reference: Logits, chunk: int) -> Logits | None:
        """As many rows as the reference's from ``row`` on; None from a level that was stopped."""
        if self.error is not None:
            return None
        rows = self._buffer[: len(reference)]
        if self._engine is None:
            rows[:] = reference
            return rows
        try:
            fetch(self._engine, row, rows, chunk)
        except EngineError as error:
            self._stop(error)
            return None
        return rows

    def close(self) -> None:
        """End its process."""
        if self._engine is not None:
            self._engine.close()

    def _stop(self, error: EngineError) -> None:
        self.error = str(error)
        self.close()


def block_rows(n_vocab: int) -> int:
    """Rows of logits that are compared at a time."""
    return max(1, _BLOCK // (4 * n_vocab))


def fetch(engine: Engine, row: int, out: Logits, chunk: int) -> None:
    """Fill ``out`` with the last decode's logits from ``row`` on; EngineError where one is not finite."""
    engine.rows(row, out)
    if not np.isfinite(out).all():
        raise EngineError(
            f"{engine.called}: chunk {chunk + 1}: llama.cpp computed logits that are not finite. "
            "The file's weights, or its activations in 16 bits, overflow: it would not write sensible text either."
        )


def evaluate(evaluation: Evaluation, tick: Callable[[], None]) -> Values:
    """Fill the sides' scores; ``tick`` is called after each decode of a model.

    Returns the reference's -ln p of each scored token (chunks x scored). EngineError where the reference fails.
    """
    windows = evaluation.windows
    nll = np.full((len(windows.ids), windows.scored), np.nan)
    for chunk, ids in enumerate(windows.ids):
        for start in range(0, len(ids), evaluation.shape.batch):
            part = ids[start : start + evaluation.shape.batch]
            skipped = max(0, windows.first - start)
            evaluation.base.decode(part, start, skipped)
            tick()
            for side in evaluation.sides:
                side.decode(part, start, skipped)
                tick()
            _compare(evaluation, nll, chunk, range(start + skipped, start + len(part)))
    return nll


def _compare(evaluation: Evaluation, nll: Values, chunk: int, positions: range) -> None:
    """Score the positions of a chunk that were decoded last, a block at a time."""
    windows, base = evaluation.windows, evaluation.base
    compare = compat.compare if evaluation.mode == "llama.cpp" else metrics.compare
    targets = windows.targets(chunk)
    rows = block_rows(base.facts.n_vocab)
    end = min(positions.stop, windows.first + windows.scored)  # the last position predicts nothing
    for position in range(positions.start, end, rows):
        reference = np.empty((min(rows, end - position), base.facts.n_vocab), np.float32)
        row, first = position - positions.start, position - windows.first
        fetch(base, row, reference, chunk)
        given = [(side, side.logits(row, reference, chunk)) for side in evaluation.sides]
        live = [(side, logits) for side, logits in given if logits is not None]
        scored = slice(first, first + len(reference))
        nll[chunk, scored], found = compare(reference, [logits for _, logits in live], targets[scored])
        for (side, _), scores in zip(live, found, strict=True):
            side.scores.put(chunk, first, scores)


def _compare_vocabularies(base: Engine, level: Engine, text: bytes) -> None:
    for name in ("n_vocab", "add_bos", "bos", "eos", "eog"):
        expected, found = getattr(base.facts, name), getattr(level.facts, name)
        if found != expected:
            raise EngineError(
                f"{level.path}: its vocabulary is not the reference's: {name} is {found}, in {base.called} {expected}. "
                "Give the reference that it was made from."
            )
    expected_ids, ids = (engine.tokenize(text, add_special=False, parse_special=False) for engine in (base, level))
    if not np.array_equal(ids, expected_ids):
        raise EngineError(
            f"{level.path}: it splits the evaluation text into other tokens than {base.called}. "
            "Give the reference that it was made from."
        )
