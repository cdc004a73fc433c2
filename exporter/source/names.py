"""One spelling of names: which of our weights lies in which stored tensor, by the family's layouts."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from converters.spec import EMBEDDING, HEAD, Family, Generated, Prefix, Row, View
from exporter.errors import MergeError, SourceError
from exporter.merge.keys import PREFIX
from exporter.source.files import FLOATS, Stored, Within

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
    return Names(weights, tuple(left_out))


def our_name(stored: str, family: Family) -> str | None:
    """Our spelling of a weight of a module as an adapter names it; None for one of a part that is left out."""
    rules = _Rules(family)
    if rules.left_out(stored) is not None:
        return None
    name = rules.without_prefix(stored)
    for pattern, targets in rules.stored.items():
        match = pattern.fullmatch(name)
        if match and isinstance(targets[0][1], str):
            return _fill(targets[0][0], match)
    return name


def our_parts(stored: str, family: Family) -> tuple[tuple[str, int, int], ...]:
    """Our weights that a fused tensor of experts holds: a name with ``{e}``, which part of its rows, of how many."""
    rules = _Rules(family)
    name = rules.without_prefix(stored)
    for pattern, targets in rules.stored.items():
        match = pattern.fullmatch(name)
        if match:
            views = ((_fill(ours, match), form) for ours, form in targets if isinstance(form, View))
            return tuple((ours, form.part, form.of) for ours, form in views)
    return ()


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
        views = [(ours, form) for ours, form in targets if isinstance(form, View)]
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
        sources = [row.source if isinstance(row, Row) else row for row in rows]
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
                    yield from _views(_fill(ours, match), form, tensor)
                return
        raise SourceError(
            f"{where}: the tensor {tensor.name} {list(tensor.shape)} has no place in this family. "
            "It is nothing that llama.cpp would use as it stands, so the model is not exported without it."
        )


def _views(ours: str, form: str | View, tensor: Stored) -> Iterator[tuple[str, Weight]]:
    """The weights of one layout row: one for a renamed tensor, one for each expert of a fused one."""
    if isinstance(form, str):
        yield ours, Weight(tensor.name, tensor.shape, tensor.dtype)
        return
    fused = len(tensor.shape) == 3 and tensor.shape[1] % form.of == 0  # noqa: PLR2004  (experts, rows, columns)
    if not fused or 0 in tensor.shape or tensor.shape[0] > MOST_EXPERTS:
        raise SourceError(
            f"{tensor.name}: has shape {list(tensor.shape)}, expected (experts, {form.of} x rows, columns), each above "
            f"0, and at most {MOST_EXPERTS} experts. Copy the file again, or save the model again."
        )
    experts, rows, columns = tensor.shape
    rows //= form.of
    for expert in range(experts):
        weight = Weight(tensor.name, (rows, columns), tensor.dtype, expert, form.part * rows)
        yield ours.replace("{e}", str(expert)), weight


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a pattern, its layer and expert as named groups."""
    escaped = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(escaped)


def _fill(template: str, match: re.Match[str]) -> str:
    """A template with the layer and expert of a match."""
    for key, value in match.groupdict().items():
        template = template.replace(f"{{{key}}}", value)
    return template
