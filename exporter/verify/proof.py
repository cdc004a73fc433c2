"""What is proved of every finished file before it gets its name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import EngineError, ProofError
from exporter.llamacpp import Loaded, load
from exporter.tokenizer.sample import SAMPLE, expected_ids, prepared

if TYPE_CHECKING:
    from exporter.plan import Plan
    from exporter.run import Run


def prove(
    run: "Run", plan: "Plan", files: Sequence[Path], progress: Callable[[int, int], None]
) -> list[dict[str, object]]:
    """Prove that llama.cpp loads each file whole, computes with it, and makes the ids of ``tokenizer.json``.

    Args:
        run: whose tokenizer is the reference.
        plan: what the files were made by.
        files: the finished files.
        progress: called with how many are proved, and how many there are.

    Returns:
        The report's checks.

    Raises:
        ProofError: a file that does not load, computes something else than numbers, or splits a text otherwise.
    """
    rows = len(plan.tokenizer.metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
    expected = expected_ids(run.tokenizer_files["tokenizer.json"], SAMPLE, plan.tokenizer)
    texts = prepared(SAMPLE, plan.tokenizer)
    for done, file in enumerate(files):
        progress(done, len(files))
        name = file.name.removesuffix(".partial")
        try:
            loaded = load(file, texts)
        except EngineError as error:
            raise ProofError(
                f"{name}: llama.cpp does not load the finished file, so it is not kept. {error}"
            ) from error
        _check(name, loaded, rows)
        _compare(name, loaded, texts, expected)
    progress(len(files), len(files))
    checks = [
        {"name": "load", "status": "pass", "detail": "llama.cpp loads each file whole and decodes with it"},
        {"name": "tokenizer", "status": "pass", "detail": f"ids of {len(texts)} texts equal tokenizer.json's"},
    ]
    levels = [output.level for output in plan.outputs[: len(files)]]
    return [check | {"levels": levels} for check in checks]


def _check(name: str, loaded: Loaded, rows: int) -> None:
    """ProofError for a vocabulary of another size, or logits that are not finite."""
    if loaded.facts.n_vocab != rows:
        raise ProofError(f"{name}: llama.cpp reads {loaded.facts.n_vocab} tokens, {rows} were written.")
    if not loaded.finite:
        raise ProofError(
            f"{name}: the first tokens give logits that are not finite: the weights are damaged, or too large for "
            "the computation. Compare with the model in transformers."
        )


def _compare(name: str, loaded: Loaded, texts: Sequence[str], expected: Sequence[Sequence[int]]) -> None:
    """ProofError that shows the first text whose ids differ."""
    for text, ids, wanted in zip(texts, loaded.ids, expected, strict=True):
        if list(ids.parsed) != list(wanted):
            first = next(
                (i for i, (one, other) in enumerate(zip(ids.parsed, wanted, strict=False)) if one != other),
                min(len(ids.parsed), len(wanted)),
            )
            raise ProofError(
                f"{name}: llama.cpp splits {text!r} otherwise than tokenizer.json, from token {first} on: "
                f"{list(ids.parsed)[first : first + 8]}, expected {list(wanted)[first : first + 8]}. "
                "The file is not kept."
            )
