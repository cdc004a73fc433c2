"""One spelling of names: which of our weights lies in which stored tensor, by the family's layouts."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

from converters.spec import EMBEDDING, HEAD, Family, Generated, Prefix, Row, View
from exporter.errors import MergeError, SourceError
from exporter.merge.keys import PREFIX
from exporter.merge.values import Part
from exporter.source.files import FLOATS, Stored, Within

WRAPPERS = re.compile(r"\.(?:modules_to_save|original_module)(?:\.\w+(?=\.weight$))?|\.base_layer")
"""What PEFT puts into the names of the copies that it saves."""
LINEAR = ("(bitsandbytes)", "(GPTQ)")
"""Schemes, as types name them, that quantize a Conv1D as a linear module."""
MOST_EXPERTS = 2**16
"""More than any model has; so many names are made of one stored tensor."""


@dataclass(frozen=True)
class Weight:
    """One of our weights: a stored tensor, or an expert's part of one. ``shape`` is the weight's own."""

    stored: str
    shape: tuple[int, ...]
    dtype: str
    expert: int | None = None
    first_row: int = 0
    step: int = 1
    """From one of its rows to the next, in the stored tensor."""
    turned: bool = False
    """Its rows are the stored tensor's columns."""


@dataclass(frozen=True)
class Names:
    """The stored tensors of a model in our spelling, and the parts that are left out."""

    weights: Mapping[str, Weight]
    left_out: tuple[str, ...]


def spell(stored: Mapping[str, Stored], family: Family, where: str, *, words: Collection[str] = ()) -> Names:
    """Find each stored tensor's place. SourceError for one that has none, or for a weight that is found twice.

    ``words`` are the types of quantized weights that are read.
    """
    weights: dict[str, Weight] = {}
    left_out: dict[str, None] = {}
    rules = _Rules(family, words)
    rules.width = next((one.shape[-1] for name, one in stored.items() if rules.is_embedding(name, one)), 0)
    for name, tensor in stored.items():
        part = rules.left_out(name)
        if part is not None:
            left_out[part] = None
        elif not name.endswith(family.dropped or ("\0",)):
            found = dict(rules.weights(tensor, where))
            twice = next((ours for ours in found if ours in weights), None)
            if twice is not None:
                raise SourceError(f"{where}: {twice} is stored twice, as {weights[twice].stored} and as {name}.")
            weights |= found
    _check_matrices(weights, where)
    return Names(weights, tuple(left_out))


def _check_matrices(weights: Mapping[str, Weight], where: str) -> None:
    """SourceError where the embedding or the head is no matrix: others are compared by their shapes in the plan."""
    for name in (EMBEDDING, HEAD):
        if name in weights and len(weights[name].shape) != len(("rows", "columns")):
            raise SourceError(
                f"{where}: {weights[name].stored} is {list(weights[name].shape)}, expected (rows, columns). Copy the "
                "file again, or save the model again."
            )


def our_name(stored: str, family: Family) -> str | None:
    """Our spelling of a weight of a module as an adapter names it; None for one of a part that is left out."""
    rules = _Rules(family)
    if rules.left_out(stored) is not None:
        return None
    name = rules.without_prefix(stored)
    for pattern, targets in rules.stored.items():
        match = pattern.fullmatch(name)
        if match and not _of_experts(targets[0][1]):
            return _fill(targets[0][0], match)
    return name


def is_turned(stored: str, family: Family) -> bool:
    """Whether a weight, as an adapter names it, is of a module that holds it turned over: (columns, rows)."""
    rules = _Rules(family)
    name = rules.without_prefix(stored)
    found = (targets for pattern, targets in rules.stored.items() if pattern.fullmatch(name))
    return any(_is_conv1d(form) for targets in found for _, form in targets)


def turned_copies(stored: Mapping[str, Stored], family: Family) -> tuple[str, ...]:
    """The matrices of an adapter's file that are saved copies of weights which their modules hold turned over."""
    if not any(map(_is_conv1d, family.layouts.values())):
        return ()
    found = []
    for name, tensor in stored.items():
        parts = WRAPPERS.sub("", name).split(".")
        matrix = len(tensor.shape) == len(("rows", "columns")) and parts[-1] == "weight"
        if matrix and any(is_turned(".".join(parts[start:]), family) for start in range(len(parts))):
            found.append(name)
    return tuple(found)


def our_parts(stored: str, family: Family) -> tuple[Part, ...]:
    """Our weights that a fused tensor of experts holds."""
    rules = _Rules(family)
    name = rules.without_prefix(stored)
    for pattern, targets in rules.stored.items():
        match = pattern.fullmatch(name)
        if match:
            views = [(_fill(ours, match), form) for ours, form in targets if isinstance(form, View) and form.experts]
            return tuple(
                Part(ours, form.part, form.of, form.mixed, None if form.width else form.turned) for ours, form in views
            )
    return ()


def _of_experts(form: str | View) -> TypeGuard[View]:
    return isinstance(form, View) and form.experts


def _is_conv1d(form: object) -> bool:
    return isinstance(form, View) and not form.experts and form.turned


def apart(stored: Mapping[str, Stored], family: Family, base: Collection[str]) -> dict[str, Stored]:
    """An adapter's tensors, fused ones of experts that it saves whole taken apart: a matrix for each expert's module.

    The names are those that the modules would have where experts are modules, as transformers 4 has them.
    MergeError where there are fewer experts than in the ``base``.
    """
    rules = _Rules(family)
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        inner = rules.without_prefix(name.removeprefix(PREFIX))
        matches = ((pattern.fullmatch(inner), targets) for pattern, targets in rules.stored.items())
        match, targets = next((one for one in matches if one[0]), (None, []))
        # Those that are stored turned over, or maybe so, are left whole, and refused as what they are.
        views = [(ours, form) for ours, form in targets if _of_experts(form) and not (form.turned or form.width)]
        if match is None or not views:
            found[name] = tensor
            continue
        for ours, form in views:
            module = _fill(_spelled_apart(ours, family), match)
            parts = dict(_views(PREFIX + module, form, tensor))
            beyond = _fill(ours, match).replace("{e}", str(tensor.shape[0]))
            if beyond in base:
                raise MergeError(
                    f"{tensor.file}: {name} holds {tensor.shape[0]} experts, the base model has more: it has {beyond}. "
                    "The adapter was trained over another base: give that one with --base."
                )
            found |= {one: _within(one, part, tensor) for one, part in parts.items()}
    return found


def _spelled_apart(ours: str, family: Family) -> str:
    """What transformers calls an expert's weight where the fused tensor's module is called as it is now."""
    target = family.layouts[ours]
    return next((form for form in target if isinstance(form, str)), ours) if isinstance(target, tuple) else ours


def _within(name: str, part: Weight, tensor: Stored) -> Stored:
    place = Within(part.stored, part.expert or 0, part.first_row)
    return Stored(name, tensor.file, part.shape, part.dtype, place)


class _Rules:
    """A family's names as patterns; made once for a model, asked for every tensor."""

    def __init__(self, family: Family, words: Collection[str] = ()) -> None:
        self.width = 0
        self._left_out = family.left_out
        self._types = {*FLOATS, *words}
        self._prefixes: list[tuple[str, str]] = []
        self.stored: dict[re.Pattern[str], list[tuple[str, str | View]]] = {}
        for ours, target in family.layouts.items():
            for form in target if isinstance(target, tuple) else (target,):
                if isinstance(form, Prefix):
                    self._prefixes.append((form.stored, ours))
                else:
                    stored = form.stored if isinstance(form, View) else form
                    self.stored.setdefault(_pattern(stored), []).append((ours, form))
        rows = [row for row in family.tensors.values() if not isinstance(row, Generated)]
        sources = {row.source if isinstance(row, Row) else row for row in rows} - _seen_otherwise(family)
        self._ours = [_pattern(source) for source in {EMBEDDING, HEAD, *sources}]

    def left_out(self, name: str) -> str | None:
        """The part a stored tensor belongs to, if it is one that is left out."""
        return next((part for part, starts in self._left_out.items() if name.startswith(starts)), None)

    def without_prefix(self, name: str) -> str:
        """A stored name with its beginning in our spelling."""
        for stored, ours in self._prefixes:
            if name.startswith(stored):
                return ours + name.removeprefix(stored)
        return name

    def is_embedding(self, name: str, tensor: Stored) -> bool:
        """Whether a stored tensor is the embedding, and is as wide as anything."""
        return bool(tensor.shape) and self.without_prefix(name) == EMBEDDING

    def weights(self, tensor: Stored, where: str) -> Iterator[tuple[str, Weight]]:
        """Our weights that lie in one stored tensor. SourceError for a tensor of no place, or of a type not read."""
        name = self.without_prefix(tensor.name)
        if tensor.dtype not in self._types:
            raise SourceError(
                f"{where}: {tensor.name} is stored as {tensor.dtype}; only {', '.join(FLOATS)} are read. "
                "Give the 16-bit model with --base, or save the model in bfloat16."
            )
        if any(pattern.fullmatch(name) for pattern in self._ours):
            yield name, Weight(tensor.name, tensor.shape, tensor.dtype)
            return
        for pattern, targets in self.stored.items():
            match = pattern.fullmatch(name)
            if match:
                for ours, form in targets:
                    yield from _views(_fill(ours, match), _placed(form, tensor, self.width), tensor)
                return
        raise SourceError(
            f"{where}: the tensor {tensor.name} {list(tensor.shape)} has no place in this family. "
            "It is nothing that llama.cpp would use as it stands, so the model is not exported without it."
        )


def _seen_otherwise(family: Family) -> set[str]:
    """Our weights that are stored under our own name, but in another form."""
    return {ours for ours, form in family.layouts.items() if isinstance(form, View) and form.stored == ours}


def _placed(form: str | View, tensor: Stored, width: int) -> str | View:
    """A view that says whether its matrix is turned over, where the model's width tells; SourceError if it does not.

    A Conv1D is quantized as the linear module that replaces it, which holds its matrix as others do (transformers'
    ``Bnb4bitQuantize``; GPTQModel's ``pack``).
    """
    if _is_conv1d(form) and tensor.dtype not in FLOATS:
        if not tensor.dtype.endswith(LINEAR):
            raise SourceError(
                f"{tensor.name}: is stored as {tensor.dtype}, and which axis of such a Conv1D is the first is not "
                "known. Give the 16-bit model with --base."
            )
        return replace(form, turned=False)  # type: ignore[type-var]
    if isinstance(form, str) or form.width is None:
        return form
    rows, columns = width in tensor.shape[-2:-1], width in tensor.shape[-1:]
    if rows == columns:
        raise SourceError(
            f"{tensor.name}: has shape {list(tensor.shape)}, expected one of the last two axes to be the model's width "
            f"of {width}: by that it is told which of the two orders of transformers it is stored in. Save it again."
        )
    return replace(form, turned=rows if form.width == "columns" else columns)


def _views(ours: str, form: str | View, tensor: Stored) -> Iterator[tuple[str, Weight]]:
    """The weights of one layout row: one for a renamed tensor, one for each expert of a fused one."""
    if isinstance(form, str):
        yield ours, Weight(tensor.name, tensor.shape, tensor.dtype)
        return
    axes = 3 if form.experts else 2
    sides = tensor.shape[-2:][:: -1 if form.turned else 1]
    fits = len(tensor.shape) == axes and sides[0] % form.of == 0 and 0 not in tensor.shape
    if not fits or (form.experts and tensor.shape[0] > MOST_EXPERTS):
        parts = f"{form.of} x rows" if form.of > 1 else "rows"
        kind = ", ".join((["experts"] if form.experts else []) + [parts, "columns"][:: -1 if form.turned else 1])
        raise SourceError(
            f"{tensor.name}: has shape {list(tensor.shape)}, expected ({kind}), each above "
            f"0, and at most {MOST_EXPERTS} experts. Copy the file again, or save the model again."
        )
    rows, columns = sides[0] // form.of, sides[1]
    first, step = (form.part, form.of) if form.mixed else (form.part * rows, 1)
    for expert in range(tensor.shape[0]) if form.experts else (None,):
        place = Weight(tensor.name, (rows, columns), tensor.dtype, expert, first, step, form.turned)
        yield ours if expert is None else ours.replace("{e}", str(expert)), place


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a pattern, its layer and expert as named groups."""
    escaped = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(escaped)


def _fill(template: str, match: re.Match[str]) -> str:
    """A template with the layer and expert of a match."""
    for key, value in match.groupdict().items():
        template = template.replace(f"{{{key}}}", value)
    return template
