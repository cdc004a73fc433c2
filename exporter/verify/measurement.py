"""Measure files against a reference: all evaluated side by side, chunk by chunk; logits are never stored."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from exporter.errors import EngineError
from exporter.llamacpp import Engine
from exporter.verify.evaluate import Evaluation, Side, evaluate, piece
from exporter.verify.metrics import Scores, Values
from exporter.verify.text import CONTEXT, Mode, Text, read_text
from exporter.verify.windows import Windows, make_windows

Progress = Callable[[int, int], None]
LARGEST_NLL = 700.0
"""exp of more is beyond float64."""


@dataclass(frozen=True)
class Options:
    """What to measure on, and how.

    Attributes:
        text: a UTF-8 file; None for the text that comes with the package.
        chunks: at most so many windows; None for all that the text has.
        mode: "default", or "llama.cpp" for llama-perplexity's windows, scoring and encoding.
        context: tokens of a window.
        threads: of llama.cpp; 0 for every core this process may use.
        called: what the reference is called in messages; None: its path.
    """

    text: Path | None = None
    chunks: int | None = 40
    mode: Mode = "default"
    context: int = CONTEXT
    threads: int = 0
    called: str | None = None


@dataclass(frozen=True)
class MeasuredOn:
    """What was evaluated: ``tokens`` are all that each model was given, ``scored`` the predictions in a chunk.

    ``asked`` chunks may be more than the text has; None: all of them.
    """

    text: str
    sha256: str
    chunks: int
    asked: int | None
    context: int
    tokens: int
    scored: int
    mode: Mode
    engine: str


@dataclass(frozen=True, eq=False)
class Level:
    """A file's scores, in arrays of shape (chunks, scored); or else why it could not be measured."""

    file: Path
    scores: Scores | None
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """The reference's -ln p of each scored token (chunks, scored), and each level's scores, in the order asked for.

    ``nll`` is None where there are levels and none could be opened: the reference is then not evaluated.
    """

    reference: Path
    measured_on: MeasuredOn
    nll: Values | None
    levels: tuple[Level, ...]


def measure(
    reference: Path, files: Sequence[Path], options: Options | None = None, progress: Progress | None = None
) -> Measurement:
    """Measure ``files`` against ``reference``, all GGUF; ``progress`` is told (done, total) after each decode.

    The reference is evaluated once a chunk, and not at all where there are files and none can be opened. What stops a
    file (it does not load, its vocabulary is another, its process dies, a logit is not finite) becomes its ``error``
    while the others go on; the same for the reference, or a text that is too short, is an EngineError.
    """
    options = options or Options()
    text = read_text(options.text)
    with ExitStack() as stack:
        base = stack.enter_context(Engine(reference, called=options.called))
        windows = make_windows(base, text.data, mode=options.mode, context=options.context, most=options.chunks)
        shape = piece(windows, base.facts.n_vocab, options.mode, options.threads)
        base.start(shape)
        sides = tuple(stack.enter_context(closing(Side(file, windows, base.facts.n_vocab))) for file in files)
        for side in sides:
            side.open(base, text.data, shape)
        live = tuple(side for side in sides if side.error is None)
        tick = _counter(progress, len(windows.ids) * -(-options.context // shape.batch) * (1 + len(live)))
        evaluation = Evaluation(base, live, windows, options.mode, shape)
        nll = evaluate(evaluation, tick) if live or not sides else None
        if nll is not None:
            _check_finite(nll, base.called)
        levels = tuple(Level(side.file, None if side.error else side.scores, side.error) for side in sides)
        return Measurement(reference, _measured_on(text, windows, options, base.facts.engine), nll, levels)


def _check_finite(nll: Values, reference: str) -> None:
    """EngineError where a perplexity is beyond what a float64 holds: such a model predicts nothing."""
    if nll.mean() > LARGEST_NLL:
        raise EngineError(
            f"{reference}: -ln p of the text's tokens is {nll.mean():.0f} on the average, so the perplexity has no "
            "number. The weights are damaged, or the text is nothing that the model was made for."
        )


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done), total)

    return tick


def _measured_on(text: Text, windows: Windows, options: Options, engine: str) -> MeasuredOn:
    chunks, context = windows.ids.shape
    tokens, scored = chunks * context, windows.scored
    return MeasuredOn(text.name, text.sha256, chunks, options.chunks, context, tokens, scored, options.mode, engine)
