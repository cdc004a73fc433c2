"""Tensors by name, in one spelling, read by rows when asked, the adapter already laid over the base."""

from dataclasses import replace
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError, SourceError
from exporter.merge import (
    KINDS,
    Change,
    Given,
    Merged,
    base_is_tied,
    check_copies,
    check_effect,
    check_fit,
    check_layers,
    check_shared,
    check_together,
    count_rows,
    is_tied,
    packing,
    read_layer,
    share_origin,
)
from exporter.source.checkpoint import open_checkpoint
from exporter.source.files import TensorFiles, open_file, open_model
from exporter.source.names import apart, is_turned, our_name, our_parts, turned_copies
from exporter.source.qlora import comparison_fields, round_trip
from exporter.source.quantized import dequantized
from exporter.source.replicated import Replicated
from exporter.vocabulary import check, weigh

if TYPE_CHECKING:
    from exporter.merge import Changes, Layer
    from exporter.merge.layer import Below
    from exporter.merge.view import Base
    from exporter.run import Adapter, Run

__all__ = ["comparison_fields", "open_source"]


def open_source(run: "Run") -> Merged:
    """A run's finished weights: its base, with its adapter laid over it. Reads headers; of tensors, only a tied head.

    SourceError for files that are incomplete or tensors without a place; MergeError for an adapter that does not fit.
    """
    files = dequantized(open_model(run.base), run.config.get("quantization_config"), str(run.base))
    stored = round_trip(open_checkpoint(files, run.names, str(run.base)), run)
    base = stored if run.layers is None else Replicated(stored, run.layers)
    if EMBEDDING not in base.shapes():
        raise SourceError(
            f"{run.base}: holds no {EMBEDDING}. The checkpoint is incomplete, or of another architecture."
        )
    source = _with_adapters(base, run) if run.adapters else Merged(base, tied=base_is_tied(base))
    _check_head(source, run)
    return source


def _with_adapters(base: "Base", run: "Run") -> Merged:
    """The base with each adapter laid over it, in order."""
    flag = run.config.get("tie_word_embeddings")
    tied = base_is_tied(base) and (HEAD in base.shapes() or flag is not False)
    # Whether training saw one storage is for the config to say; the finished matrices decide by what is in them.
    layers = [_given_layer(base, adapter, run, tied=tied and flag is not False) for adapter in run.adapters]
    if len(layers) > 1:
        for layer in layers:
            layer.without_copies(*_as_stored(base))
    check_together(layers, [f"--adapter {one.given}" if one.given else str(one.weights) for one in run.adapters])
    tied = tied and all(is_tied(layer.changes, layer.tensors) for layer in layers)
    return Merged(base, layers, tied=tied, notes=tuple(note for layer in layers for note in layer.notes()))


def _as_stored(base: "Base") -> tuple["Below", dict[str, tuple[int, ...]]]:
    """The base's weights as adapters see them: a head that is not stored is the embedding."""
    shapes = base.shapes()
    place = {HEAD: EMBEDDING} if HEAD not in shapes else {}
    return lambda name, start, stop: base.read(place.get(name, name), start, stop), {HEAD: shapes[EMBEDDING]} | shapes


def _given_layer(base: "Base", adapter: "Adapter", run: "Run", *, tied: bool) -> "Layer":
    """One adapter, checked against the base; MergeError says which option gave it."""
    try:
        return _layer(base, adapter, run, tied=tied)
    except MergeError as error:
        if adapter.given is None:
            raise
        raise MergeError(f"--adapter {adapter.given}: {error}") from error


def _layer(base: "Base", adapter: "Adapter", run: "Run", *, tied: bool) -> "Layer":
    """One adapter, checked against the base."""
    opened = open_file(adapter.weights, integers=adapter.config.get("peft_type") not in KINDS)
    own = apart(opened.tensors, run.names, base.shapes())
    tensors = TensorFiles(own, turned_copies(opened.tensors, run.names))
    shapes = {name: stored.shape for name, stored in tensors.tensors.items()}
    given = Given(
        adapter.config,
        shapes,
        adapter.weights,
        base.shapes(),
        spell=lambda name: our_name(name, run.names),
        split=lambda name: our_parts(name, run.names),
        turned=lambda name: is_turned(name, run.names),
        packing=packing(adapter.config, run.packing, run.trainer),
        tied=bool(run.config.get("tie_word_embeddings")),
    )
    layer = read_layer(given, tensors, adapter.weight)
    layer.changes = replace(layer.changes, tensors=len(opened.tensors))
    if adapter.config.get("ensure_weight_tying") and run.config.get("tie_word_embeddings"):
        _check_ensured(layer.changes, adapter)
    if tied:
        check_shared(layer.changes, adapter)
        layer.changes = share_origin(layer.changes)
    rows = count_rows(base.shapes(), [(layer.changes, shapes)], tied=tied and is_tied(layer.changes, tensors))
    check(weigh(rows), adapter.weights)
    check_fit(layer.changes, shapes, base.shapes(), adapter)
    check_layers(layer.changes, base.shapes(), adapter)
    check_effect(layer.changes, tensors, adapter.weights)
    check_copies(layer.changes, tensors, adapter.weights)
    return layer


def _check_ensured(changes: "Changes", adapter: "Adapter") -> None:
    """MergeError where embedding and head are to be tied, but the file changes one of them only.

    PEFT stores both; a version that cannot tie them stores, and trains, the one that was targeted. Rows that were
    trained alone it stores once in any version: those of the embedding are the head's too, not the other way round.
    """
    changed = [name for name in (EMBEDDING, HEAD) if name in changes.by_weight]
    of_tokens = changed and replace(changes.by_weight[changed[0]], tokens=None) == Change(changed[0])
    if len(changed) == 1 and not of_tokens:
        raise MergeError(
            f"{adapter.weights}: adapter_config.json says ensure_weight_tying, but the file changes only {changed[0]}, "
            f"so it is unclear whether {EMBEDDING} and {HEAD} were trained as one. Save the run with a PEFT that "
            "stores both, or, if only the one was trained, set ensure_weight_tying to false."
        )


def _check_head(source: Merged, run: "Run") -> None:
    """SourceError for a model that lost the head it needs."""
    change = source.changes.by_weight.get(HEAD)
    lacking = HEAD not in source.stored() and (change is None or change.replaced_by is None)
    if lacking and run.config.get("tie_word_embeddings") is False:
        raise SourceError(
            f"{run.base}: holds no {HEAD}, and config.json says that it is not the embedding (tie_word_embeddings is "
            "false). The checkpoint is incomplete: save it again with its head."
        )
