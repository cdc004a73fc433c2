"""Fields with a value for each layer, of models whose layers are not all alike."""

from typing import TYPE_CHECKING, cast

from converters.spec.derive import Derive, whole
from converters.spec.values import Config, Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WINDOWED, FULL = "sliding_attention", "full_attention"


def windowed(config: Config) -> tuple[bool, ...]:
    """For each layer, whether ``layer_types`` gives it a window; ValueError for a third kind."""
    kinds = cast("Sequence[str]", config["layer_types"])
    odd = next((kind for kind in kinds if kind not in {WINDOWED, FULL}), None)
    if odd is not None:
        raise ValueError(f"layer_types says {odd!r}, expected {WINDOWED!r} or {FULL!r}")
    return tuple(kind == WINDOWED for kind in kinds)


def last_layers(count: str) -> Derive:
    """For each layer, whether it is one of the last, whose number a field says."""

    def derive(config: Config) -> object:
        layers = whole(config, "num_hidden_layers")
        return tuple(layer >= layers - whole(config, count) for layer in range(layers))

    return derive


def last_kinds_before(count: str) -> Derive:
    """The kinds of the last two layers before the last so many, with a space between; empty where these are none."""

    def derive(config: Config) -> object:
        first = whole(config, "num_hidden_layers") - whole(config, count)
        kinds = cast("Sequence[str]", config["layer_types"])
        return " ".join(kinds[max(first - 2, 0) : max(first, 0)]) if whole(config, count) else ""

    return derive


def of_full_layers(name: str, elsewhere: str, usual: int | None = None) -> Derive:
    """A field's value in the layers without a window; ``usual`` where nothing gives them one of their own.

    transformers 5 writes ``per_layer_config``, with the fields of single layers; Gemma 4's first releases wrote another
    field. ValueError where layers of a kind differ, or differ in more than head sizes and numbers of heads.
    """

    def derive(config: Config) -> object:
        said = cast("Mapping[str, Mapping[str, object]] | None", config.get("per_layer_config"))
        if said is None:
            return usual if config.get(elsewhere) is None else whole(config, elsewhere)
        found = {}
        of_layer = {int(layer): own for layer, own in said.items()}  # transformers writes "05"
        for layer, kind in enumerate(cast("Sequence[str]", config["layer_types"])):
            own = of_layer.get(layer, {})
            strange = set(own) - {"head_dim", "num_key_value_heads"}
            if strange or (own and kind == WINDOWED):
                raise ValueError(f"per_layer_config gives layer {layer}, {kind}, its own {', '.join(strange or own)}")
            if kind == FULL:
                found[own.get(name)] = layer
        if len(found) > 1:
            raise ValueError(f"per_layer_config gives {FULL} layers {name} {' and '.join(map(str, found))}")
        return next(iter(found), None)

    return derive


def last_kind(config: Config) -> str:
    """The kind of the last layer."""
    return cast("Sequence[str]", config["layer_types"])[-1]


def by_layer(which: str, yes: str, no: str) -> Derive:
    """For each layer, one field where another holds true, else a third, or the first where the third is null."""

    def derive(config: Config) -> object:
        one = whole(config, yes)
        other = one if config.get(no) is None else whole(config, no)
        return tuple(one if true else other for true in cast("Sequence[bool]", config[which]))

    return derive


def worded(which: str, yes: str, no: str) -> Derive:
    """For each layer, a word where a field holds true, else another."""
    return lambda config: tuple(yes if true else no for true in cast("Sequence[bool]", config[which]))


def numbers_of(which: str) -> Derive:
    """The numbers of the layers for which a field holds true."""
    return lambda config: tuple(i for i, true in enumerate(cast("Sequence[bool]", config[which])) if true)


def times_each(factor: str, name: str) -> Derive:
    """For each layer, a whole number, or that layer's, times another field's number for the layer."""

    def derive(config: Config) -> object:
        numbers = cast("Sequence[int]", config[name])
        factors = config[factor]
        each = factors if isinstance(factors, tuple) else [whole(config, factor)] * len(numbers)
        return tuple(one * other for one, other in zip(each, numbers, strict=True))

    return derive


def twice(name: str) -> Derive:
    """Twice a whole-number field; None where it is not there."""
    return lambda config: None if config.get(name) is None else 2 * whole(config, name)


def chosen(which: str, yes: str, no: str) -> Derive:
    """One field where another holds something, else a third."""
    return lambda config: config[yes] if config.get(which) else config[no]


def both(one: str, other: str) -> Derive:
    """One field where another holds true, else None."""
    return lambda config: config.get(other) if config.get(one) else None


def holds_unless(one: str, other: str) -> Derive:
    """For each layer, whether one field holds true there; all layers where another field does not."""
    return lambda config: tuple(there or not config.get(other) for there in cast("Sequence[bool]", config[one]))


def alike(name: str) -> Derive:
    """For each layer a field that is one number, or a list of one for each layer; ValueError where they differ."""

    def derive(config: Config) -> object:
        layers, said = whole(config, "num_hidden_layers"), config[name]
        sizes = said if isinstance(said, list) else [whole(config, name)] * layers
        if len(sizes) != layers or any(type(size) is not int or size != sizes[0] for size in sizes):
            raise ValueError(f"{name} is {str(sizes)[:60]}, expected the same number for each of {layers} layers")
        return tuple(sizes)

    return derive


def all_layers_but(count: str) -> Derive:
    """The number of layers less a field."""
    return lambda config: whole(config, "num_hidden_layers") - whole(config, count)


def first_layers(count: int, value: float, rest: float) -> Derive:
    """For each layer a number: one in the first so many, another in the rest."""
    return lambda config: tuple(value if i < count else rest for i in range(whole(config, "num_hidden_layers")))


def as_many_as_tokens(config: Config, height: int) -> tuple[Span, ...]:
    """All rows, and the first again for each token that has none, as transformers looks them up."""
    missing = whole(config, "vocab_size") - height
    if missing < 0:
        raise ValueError(f"{-missing} rows more than the embedding has")
    return ((0, height, 1), *((0, 1, 1),) * missing)


def some_windowed(config: Config) -> bool:
    """Whether some layer of a dense Qwen 2 or 3 sees only the last tokens, as transformers decides it.

    Only where ``use_sliding_window`` is true and ``sliding_window`` is a number; then in the layers that
    ``layer_types`` says, or from ``max_window_layers`` on.
    """
    if not config.get("use_sliding_window") or not config.get("sliding_window", 4096):
        return False
    if config.get("layer_types") is not None:
        return "sliding_attention" in cast("list[str]", config["layer_types"])
    return whole(config, "max_window_layers") < whole(config, "num_hidden_layers")
