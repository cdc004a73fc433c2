"""From a family's table and a source's shapes to the tensors of the file; what does not fit is refused by name."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from converters.spec import EMBEDDING, HEAD, Config, Family, Generated, Row, Span
from exporter.errors import PlanError
from exporter.plan.shapes import check_shapes, measured
from exporter.plan.values import STEPS, Steps

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file before its types are chosen: fields as in ``Job``."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    steps: Steps = STEPS
    values: tuple[float, ...] = ()
    axes: tuple[int, ...] = ()


def lay_out(family: Family, config: Config, shapes: Shapes) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """The file's tensors, ordered by block and name as llama.cpp orders them, and the weights that must be zeros.

    PlanError for a weight that is missing, of another shape than config.json says, or used by no row.
    """
    _check_counts(family, config, shapes)
    written = {name: row for name, row in family.tensors.items() if not (isinstance(row, Row) and row.zero)}
    tensors = [tensor for name, row in written.items() for tensor in _tensors(name, row, config, shapes)]
    if family.head == "always" and HEAD not in shapes:
        head = Tensor("output.weight", shapes[EMBEDDING], (EMBEDDING,), Steps(shapes[EMBEDDING][0]))
        tensors = [tensor for tensor in tensors if tensor.name != head.name] + [head]
    zeros = _zeros(family, shapes)
    used = {source for tensor in tensors for source in tensor.sources} | set(zeros)
    unused = sorted(set(shapes) - used)
    if unused:
        raise PlanError(
            f"{unused[0]} {list(shapes[unused[0]])} is in the model, but not in a {family.arch} of "
            f"{config['num_hidden_layers']} layers ({len(unused)} such weights). config.json and the weights do not "
            "belong together."
        )
    check_shapes(tensors, family, config)
    return tuple(sorted(tensors, key=lambda tensor: (block(tensor.name), tensor.name))), zeros


def _zeros(family: Family, shapes: Shapes) -> tuple[str, ...]:
    """The weights that must be zeros, in whichever layers they are."""
    templates = [row.source for row in family.tensors.values() if isinstance(row, Row) and row.zero]
    patterns = [re.compile(re.escape(one).replace(r"\{i\}", r"\d+")) for one in templates]
    return tuple(source for source in shapes if any(one.fullmatch(source) for one in patterns))


def _check_counts(family: Family, config: Config, shapes: Shapes) -> None:
    """PlanError where config.json tells of more layers, or more experts in them, than there are weights."""
    layers, experts = cast("int", config["num_hidden_layers"]), cast("int", config.get("num_experts") or 0)
    mixed = any(isinstance(row, str) and "{e}" in row for row in family.tensors.values())
    if layers * (experts if mixed else 1) > len(shapes):
        raise PlanError(
            f"config.json tells of {layers} layers{f' of {experts} experts' if mixed else ''}, the model has only "
            f"{len(shapes)} weights. The weights and config.json are of different models."
        )


def block(name: str) -> int:
    """A tensor's layer; -1 for those outside the layers."""
    match = re.match(r"(?:v\.)?blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _tensors(name: str, row: str | Row | Generated, config: Config, shapes: Shapes) -> Iterator[Tensor]:
    """The tensors of one row of the table: one, or one for each layer; none for an optional one that is absent."""
    if isinstance(row, Generated):
        values = row.make(config)
        if values is not None:
            yield Tensor(name, values.shape, values=tuple(float(value) for value in values))
        return
    row = row if isinstance(row, Row) else Row(row)
    if row.flag is not None and not config.get(row.flag):
        return
    layers = _layers(name, row, config, shapes)
    there = [_sources(row, layer, config, shapes) for layer in layers]
    if row.optional and not any(source in shapes for sources in there for source in sources):
        return
    for layer, sources in zip(layers, there, strict=True):
        missing = [source for source in sources if source not in shapes]
        if missing:
            raise PlanError(
                f"{missing[0]} is missing from the model, so {name.format(i=layer)} cannot be made. The checkpoint is "
                "incomplete, or config.json is another model's."
            )
        shape = shapes[sources[0]]
        odd = next((source for source in sources if shapes[source] != shape), None)
        if odd is not None:
            raise PlanError(
                f"{odd} is {list(shapes[odd])}, the other experts are {list(shape)}. Experts are of one shape."
            )
        try:
            steps, made = _steps(row, config, shape)
            axes = _axes(row, config, made, sources[0])
        except ValueError as error:
            raise PlanError(f"{sources[0]} is {list(shape)}: {error}. config.json is another model's.") from error
        stacked = (len(sources), *made) if "{e}" in row.source else made
        yield Tensor(name.replace("{i}", str(layer)), stacked, sources, steps, axes=axes)


def _layers(name: str, row: Row, config: Config, shapes: Shapes) -> Sequence[int]:
    """The layers that have a row; of those in which the graph does not read it, the ones that have the weight."""
    layers: Sequence[int] = range(cast("int", config["num_hidden_layers"])) if "{i}" in name else range(1)
    if row.among is not None:
        layers = cast("tuple[int, ...]", config[row.among])
    if row.layers is not None:
        there = cast("Sequence[bool]", config[row.layers])
        layers = [layer for layer in layers if there[layer]]
    if row.unread is not None and not row.stands_in:
        spare = cast("Sequence[bool]", config[row.unread])
        layers = [layer for layer in layers if not spare[layer] or row.source.replace("{i}", str(layer)) in shapes]
    return layers


def _steps(row: Row, config: Config, shape: tuple[int, ...]) -> tuple[Steps, tuple[int, ...]]:
    """What is done to a weight of a shape, and the shape of what comes out; ValueError where it is not possible."""
    height, *rest = shape or (0,)
    if not shape or (row.columns and not rest):
        raise ValueError("it has no rows" if not shape else "it has no columns")
    taken = row.rows(config, height) if row.rows else ()
    tall = count(taken) if taken else height
    wide = [prod(rest)] if row.flat else rest
    across = row.columns(config, wide[-1]) if row.columns else ()
    if across:
        wide = [*wide[:-1], count(across)]
    made = (tall, *wide)
    matrices = cast("int", config[row.matrices]) if row.matrices else None
    if matrices is not None:
        if tall % matrices:
            raise ValueError(f"{tall} rows are not {matrices} matrices ({row.matrices})")
        made = (matrices, tall // matrices, *wide)
    if row.transposed:
        made = (*made[:-2], made[-1], made[-2])
    heads = cast("int", config[row.heads]) if row.heads else 0
    unit = row.unit is not None and bool(config[row.unit])
    vectors = "{e}" in row.source and len(shape) == 1
    return Steps(height, taken, across, heads, row.minus_exp, row.add, row.transposed, unit, vectors), made


def _axes(row: Row, config: Config, made: tuple[int, ...], source: str) -> tuple[int, ...]:
    """The shape that the file says, where it is another; ValueError where it has not as many numbers."""
    axes = measured(row.axes, config, source)
    if axes and prod(axes) != prod(made):
        raise ValueError(f"{prod(made)} numbers are not {' x '.join(map(str, axes))}")
    return axes


def count(spans: Iterable[Span]) -> int:
    """How many rows some spans hold."""
    return sum(len(range(*span)) for span in spans)


def _sources(row: Row, layer: int, config: Config, shapes: Shapes) -> tuple[str, ...]:
    """The weights behind a row in one layer: one, or every expert's."""
    place = cast("tuple[int, ...]", config[row.among]).index(layer) if row.among else layer
    name = row.source.replace("{i}", str(place))
    if "{e}" not in name:
        lacks = row.stands_in and name not in shapes and cast("Sequence[bool]", config[row.unread or ""])[layer]
        return (row.source.replace("{i}", "0") if lacks else name,)
    count = config.get(row.count)
    if not isinstance(count, int):
        raise PlanError(f"config.json: {row.count} is {count!r}, expected a number: {name} is one of so many weights.")
    return tuple(name.replace("{e}", str(expert)) for expert in range(count))
