"""From a family's table and a source's shapes to the tensors of the file; what does not fit is refused by name."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from converters.spec import EMBEDDING, HEAD, Config, Family, Generated, Row
from exporter.errors import PlanError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file before its types are chosen: fields as in ``Job``."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    heads: int = 0
    add: float = 0.0
    values: tuple[float, ...] = ()


def lay_out(family: Family, config: Config, shapes: Shapes) -> tuple[Tensor, ...]:
    """The file's tensors, ordered by block and name as llama.cpp orders them.

    PlanError for a weight that is missing, of another shape than config.json says, or used by no row.
    """
    _check_counts(family, config, shapes)
    tensors = [tensor for name, row in family.tensors.items() for tensor in _tensors(name, row, config, shapes)]
    if family.head == "always" and HEAD not in shapes:
        head = Tensor("output.weight", shapes[EMBEDDING], (EMBEDDING,))
        tensors = [tensor for tensor in tensors if tensor.name != head.name] + [head]
    used = {source for tensor in tensors for source in tensor.sources}
    unused = sorted(set(shapes) - used)
    if unused:
        raise PlanError(
            f"{unused[0]} {list(shapes[unused[0]])} is in the model, but not in a {family.arch} of "
            f"{config['num_hidden_layers']} layers ({len(unused)} such weights). config.json and the weights do not "
            "belong together."
        )
    _check_shapes(tensors, config)
    return tuple(sorted(tensors, key=lambda tensor: (block(tensor.name), tensor.name)))


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
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _tensors(name: str, row: str | Row | Generated, config: Config, shapes: Shapes) -> Iterator[Tensor]:
    """The tensors of one row of the table: one, or one for each layer; none for an optional one that is absent."""
    if isinstance(row, Generated):
        values = row.make(config)
        if values is not None:
            yield Tensor(name, values.shape, values=tuple(float(value) for value in values))
        return
    row = row if isinstance(row, Row) else Row(row)
    layers = range(cast("int", config["num_hidden_layers"])) if "{i}" in name else range(1)
    there = [_sources(row.source, layer, config) for layer in layers]
    absent = row.optional and not any(source in shapes for sources in there for source in sources)
    if absent or (row.flag is not None and not config.get(row.flag)):
        return
    heads = cast("int", config[row.heads]) if row.heads else 0
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
        stacked = (len(sources), *shape) if "{e}" in row.source else shape
        yield Tensor(name.replace("{i}", str(layer)), stacked, sources, heads, row.add)


def _sources(template: str, layer: int, config: Config) -> tuple[str, ...]:
    """The weights behind a row in one layer: one, or every expert's."""
    name = template.replace("{i}", str(layer))
    if "{e}" not in name:
        return (name,)
    return tuple(name.replace("{e}", str(expert)) for expert in range(cast("int", config["num_experts"])))


def _check_shapes(tensors: list[Tensor], config: Config) -> None:
    """PlanError where a tensor is not as large as config.json says."""
    rows = next(tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight")
    expected = _expected_shapes(config, rows)
    for tensor in tensors:
        size = expected.get(re.sub(r"^blk\.\d+\.", "", tensor.name))
        if size is not None and tensor.shape != size:
            raise PlanError(
                f"{tensor.sources[0]} is {list(tensor.shape)}, config.json makes it {list(size)}. The weights and "
                "config.json are of different models."
            )


def _expected_shapes(config: Config, rows: int) -> dict[str, tuple[object, ...]]:
    """The shape of each tensor by its name in a layer, as config.json says; the embedding's rows are its own."""
    hidden, heads = cast("int", config["hidden_size"]), cast("int", config["num_attention_heads"])
    head = cast("int", config.get("head_dim", hidden // heads))
    queries, keys = heads * head, cast("int", config["num_key_value_heads"]) * head
    inner, count = config.get("intermediate_size"), config.get("num_experts")
    experts = config.get("moe_intermediate_size", inner)
    shared = config.get("shared_expert_intermediate_size", inner)
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "output_norm")
    return dict.fromkeys((f"{norm}.weight" for norm in norms), (hidden,)) | {
        "token_embd.weight": (rows, hidden),
        "output.weight": (rows, hidden),
        "attn_q.weight": (queries, hidden),
        "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden),
        "attn_output.weight": (hidden, queries),
        "attn_q_norm.weight": (head,),
        "attn_k_norm.weight": (head,),
        "attn_q.bias": (queries,),
        "attn_k.bias": (keys,),
        "attn_v.bias": (keys,),
        "attn_output.bias": (hidden,),
        **_feed_forward_shapes("", hidden, (), inner),
        **_feed_forward_shapes("_exps", hidden, (count,), experts),
        **_feed_forward_shapes("_shexp", hidden, (), shared),
        "ffn_gate.bias": (inner,),
        "ffn_up.bias": (inner,),
        "ffn_down.bias": (hidden,),
        "ffn_gate_inp.weight": (count, hidden),
        "ffn_gate_inp_shexp.weight": (1, hidden),
    }


def _feed_forward_shapes(
    kind: str, hidden: int, experts: tuple[object, ...], inner: object
) -> dict[str, tuple[object, ...]]:
    """The three matrices of a feed-forward block, dense, of all experts, or shared."""
    return {
        f"ffn_gate{kind}.weight": (*experts, inner, hidden),
        f"ffn_up{kind}.weight": (*experts, inner, hidden),
        f"ffn_down{kind}.weight": (*experts, hidden, inner),
    }
