"""Whether the finished head is the finished embedding: decided by the tensors, not by the config's flag."""

from dataclasses import replace
from typing import TYPE_CHECKING

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge.lora import by_variant, is_set_aside
from exporter.merge.values import Change, Changes, Factors, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from exporter.merge.view import Base
    from exporter.run import Adapter
    from exporter.source.files import TensorFiles

ROWS = 4096


def base_is_tied(base: "Base") -> bool:
    """True where the base has no head, or one that equals its embedding; compares up to the first difference."""
    shapes = base.shapes()
    return HEAD not in shapes or equal_rows(
        shapes[HEAD], shapes[EMBEDDING], lambda *rows: base.read(HEAD, *rows), lambda *rows: base.read(EMBEDDING, *rows)
    )


def check_shared(changes: Changes, adapter: "Adapter") -> None:
    """MergeError for an adapter of a tied base that PEFT cannot run: trained rows shared with what else was trained.

    PEFT lays the embedding's rows over the head too, and with ``ensure_weight_tying`` the head's over the embedding.
    The combinations are those at which PEFT 0.21 stops: when it wraps the model, or when that looks up or answers.
    """
    found = {name: changes.by_weight.get(name, Change(name)) for name in (EMBEDDING, HEAD)}
    _check_wholes(found, adapter)
    ensured = bool(adapter.config.get("ensure_weight_tying"))
    for name, other in ((EMBEDDING, HEAD), (HEAD, EMBEDDING)):
        change, beside = found[name], found[other]
        if change.tokens is None or beside.tokens is not None or not (name == EMBEDDING or ensured):
            continue
        stored, factors = beside.replaced_by, beside.factors
        if stored is not None and is_set_aside(adapter.config, stored):
            what = "saved whole (modules_to_save)"
        elif factors is not None and (ensured or factors.magnitude is not None):
            what = "trained with DoRA" if factors.magnitude is not None else "trained with LoRA (ensure_weight_tying)"
        else:
            continue
        raise MergeError(
            f"{adapter.weights}: has trained tokens of {name} (trainable_token_indices), and {other}, which is the "
            f"same matrix, was {what}: PEFT lays the tokens over both, and cannot run the result, so no live model "
            "tells what it should be. Train again with both of them in modules_to_save, or without one of the two."
        )


def _check_wholes(found: dict[str, Change], adapter: "Adapter") -> None:
    """MergeError where a layer that PEFT merges meets trained tokens in the one matrix, or is a variant of LoRA."""
    variant = by_variant(adapter.config)
    if any(one.whole for one in found.values()) and (variant or any(one.tokens for one in found.values())):
        raise MergeError(
            f"{adapter.weights}: changes {' or '.join(found)} of a model in which the two are one "
            f"({'a variant of LoRA' if variant else 'with trained tokens'}): what the change of one is to the other "
            "PEFT leaves open, and its merge differs from the trained model. Train without that module, or with plain "
            "LoRA."
        )


def share_origin(changes: Changes) -> Changes:
    """The changes of an adapter on a tied base, what one of the two matrices held before training given to the other.

    It was one storage, and PEFT saves it only with the matrix that was trained. Where the other one is replaced, or was
    saved too, nothing changes.
    """
    found = {name: changes.by_weight.get(name, Change(name)) for name in (EMBEDDING, HEAD)}
    for name, change in found.items():
        other = found[HEAD if name == EMBEDDING else EMBEDDING]
        if change.replaced_by is None and other.origin is not None:
            shared = replace(change, replaced_by=other.origin, origin=other.origin)
            return replace(changes, by_weight={**changes.by_weight, name: shared})
    embedding, head = found[EMBEDDING], found[HEAD]
    if embedding.tokens is not None and head.tokens is None and head.replaced_by is None:
        # PEFT ties rows that are trained alone too, and saves them once.
        shared = replace(head, tokens=replace(embedding.tokens, first=head.factors is not None))
        return replace(changes, by_weight={**changes.by_weight, HEAD: shared})
    return changes


def is_tied(changes: Changes, adapter: "TensorFiles") -> bool:
    """True where training changed neither embedding nor head of a tied base, or both alike.

    Both alike: replaced by equal tensors, or given one product: PEFT's ``ensure_weight_tying`` stores the embedding's
    two factors again for the head, exchanged and turned. A change of one only, or different ones, unties them.
    """
    embedding, head = changes.by_weight.get(EMBEDDING), changes.by_weight.get(HEAD)
    if embedding is None or head is None:
        return embedding is head
    return (
        embedding.whole is None
        and head.whole is None
        and (
            _trained_alike(embedding.tokens, head.tokens, adapter)
            and _replaced_alike(embedding, head, adapter)
            and _added_alike(embedding.factors, head.factors, adapter)
        )
    )


def equal_tensors(one: str, other: str, adapter: "TensorFiles") -> bool:
    """Whether two tensors of an adapter are equal."""
    return equal_rows(
        adapter.tensors[one].shape,
        adapter.tensors[other].shape,
        lambda start, stop: adapter.read(one, (slice(start, stop),)),
        lambda start, stop: adapter.read(other, (slice(start, stop),)),
    )


def _replaced_alike(one: Change, other: Change, adapter: "TensorFiles") -> bool:
    """Whether neither was replaced, or both by equal tensors."""
    if one.replaced_by is None or other.replaced_by is None:
        return one.replaced_by is other.replaced_by
    return equal_tensors(one.replaced_by, other.replaced_by, adapter)


def _trained_alike(one: Tokens | None, other: Tokens | None, adapter: "TensorFiles") -> bool:
    """Whether no rows were trained alone, or the same of both, and equally."""
    if one is None or other is None:
        return one is other
    return one.ids == other.ids and equal_tensors(one.rows, other.rows, adapter)


def _added_alike(embedding: Factors | None, head: Factors | None, adapter: "TensorFiles") -> bool:
    """Whether nothing was added to either, or the same product to both."""
    if embedding is None or head is None:
        return embedding is head
    pairs = (embedding.a, head.b), (embedding.b, head.a)
    plain = embedding.magnitude is None and head.magnitude is None  # DoRA's lengths are of columns in one, rows in one
    return (
        plain
        and embedding.scale == head.scale
        and all(
            adapter.tensors[one].shape == adapter.tensors[other].shape[::-1]
            and adapter.read(one, (slice(None),)).T.equal(adapter.read(other, (slice(None),)))
            for one, other in pairs
        )
    )


def equal_rows(
    shape: tuple[int, ...],
    other: tuple[int, ...],
    read: "Callable[[int, int], torch.Tensor]",
    read_other: "Callable[[int, int], torch.Tensor]",
) -> bool:
    """Whether two matrices are equal; reads up to the first slice that differs."""
    starts = range(0, shape[0], ROWS)
    return shape == other and all(read(i, i + ROWS).equal(read_other(i, i + ROWS)) for i in starts)
