"""Tensors by name, in one spelling, read by rows when asked, the adapter already laid over the base."""

from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError, SourceError
from exporter.merge import Merged, check_fit, is_tied, read_changes
from exporter.source.checkpoint import open_checkpoint
from exporter.source.files import open_file, open_model
from exporter.source.names import our_name

if TYPE_CHECKING:
    from exporter.run import Adapter, Run
    from exporter.source.checkpoint import Checkpoint

__all__ = ["open_source"]


def open_source(run: "Run") -> Merged:
    """A run's finished weights: its base, with its adapter laid over it. Reads headers; of tensors, only a tied head.

    SourceError for files that are incomplete or tensors without a place; MergeError for an adapter that does not fit.
    """
    base = open_checkpoint(open_model(run.base), run.family, str(run.base))
    if EMBEDDING not in base.shapes():
        raise SourceError(
            f"{run.base}: holds no {EMBEDDING}. The checkpoint is incomplete, or of another architecture."
        )
    source = Merged(base, tied=is_tied(base)) if not run.adapters else _with_adapter(base, run.adapters[0], run)
    _check_head(source, run)
    return source


def _with_adapter(base: "Checkpoint", adapter: "Adapter", run: "Run") -> Merged:
    """The base with one adapter laid over it."""
    tensors = open_file(adapter.weights)
    shapes = {name: stored.shape for name, stored in tensors.tensors.items()}
    changes = read_changes(adapter.config, shapes, lambda name: our_name(name, run.family), adapter.weights)
    if not changes.by_weight:
        raise MergeError(f"{adapter.weights}: the adapter changes nothing of the exported model. Check the run.")
    check_fit(changes, shapes, base.shapes(), adapter)
    ensured = bool(adapter.config.get("ensure_weight_tying") and run.config.get("tie_word_embeddings"))
    return Merged(base, tensors, changes, tied=is_tied(base, tensors, changes, ensured=ensured))


def _check_head(source: Merged, run: "Run") -> None:
    """Refuse a head that the family's graph cannot hold, and a model that lost the head it needs."""
    if source.tied and HEAD not in source.stored() and run.config.get("tie_word_embeddings") is False:
        raise SourceError(
            f"{run.base}: holds no {HEAD}, and config.json says that it is not the embedding (tie_word_embeddings is "
            "false). The checkpoint is incomplete: save it again with its head."
        )
    if not source.tied and run.family.head == "never":
        raise MergeError(
            f"{run.path}: its head differs from its embedding, and llama.cpp's graph of {run.family.arch} has only one "
            "tensor for both. Train embedding and head alike (PEFT: ensure_weight_tying), or neither."
        )
