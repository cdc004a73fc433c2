"""How large each tensor is to be, by what config.json says."""

import re
from typing import TYPE_CHECKING, cast

from converters.spec import Config, Family
from exporter.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.plan.tensors import Tensor

Sizes = tuple[str | int, ...]
HIDDEN, INNER = "hidden_size", "intermediate_size"
ROWS, HEAD, QUERIES, KEYS = "the embedding's rows", "a head's width", "the queries' rows", "the keys' rows"
EXPERT, SHARED = f"moe_{INNER} or {INNER}", f"shared_expert_{INNER} or {INNER}"
NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "output_norm")
LAYER = re.compile(r"(?:v\.)?(?:blk|(deepstack))\.(\d+)\.")


def check_shapes(tensors: "Sequence[Tensor]", family: Family, config: Config) -> None:
    """PlanError where a tensor is not as large as config.json says, or has a side of no length."""
    rows = next((tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight"), None)
    usual: Mapping[str, Sizes | None] = {} if rows is None else USUAL
    sizes = config if rows is None else {**config, **_worked_out(config, rows)}
    for tensor in tensors:
        source = tensor.sources[0] if tensor.sources else tensor.name
        found = LAYER.match(tensor.name)
        layer, name = (int(found[2]), tensor.name[found.end() :]) if found else (0, tensor.name)
        name = f"{found[1]}.{name}" if found and found[1] else name
        shape = family.shapes[name] if name in family.shapes else usual.get(name)
        size = None if shape is None else measured(shape, sizes, source, layer)
        if size is not None and tensor.shape != size:
            raise PlanError(
                f"{source} is {list(tensor.shape)}, config.json makes it {list(size)}. The weights and "
                "config.json are of different models."
            )
        if 0 in tensor.shape:
            raise PlanError(
                f"{source} makes {tensor.name} {list(tensor.shape)}: a tensor has no side of 0. Copy config.json and "
                "the weights from the base model, or save the model again."
            )


def measured(shape: Sizes, config: Config, source: str, layer: int = 0) -> tuple[int, ...]:
    """A shape in numbers, in one layer. PlanError for a field that config.json lacks."""
    missing = next((one for one in shape if isinstance(one, str) and config.get(one) is None), None)
    if missing is not None:
        raise PlanError(
            f"config.json: {missing} is missing; {source} is measured by it. Copy it from the base model's config."
        )
    sizes = [config[one] if isinstance(one, str) else one for one in shape]
    return tuple(cast("int", size[layer] if isinstance(size, tuple) else size) for size in sizes)


def _worked_out(config: Config, rows: int) -> dict[str, object]:
    """What the usual shapes are of, beside the config's own fields; the embedding's rows are its own."""
    hidden, heads = cast("int", config["hidden_size"]), cast("int", config["num_attention_heads"])
    head = cast("int", config.get("head_dim", hidden // heads))
    inner = config.get("intermediate_size")
    return {
        ROWS: rows,
        HEAD: head,
        QUERIES: heads * head,
        KEYS: cast("int", config["num_key_value_heads"]) * head,
        EXPERT: config.get("moe_intermediate_size", inner),
        SHARED: config.get("shared_expert_intermediate_size", inner),
    }


def _feed_forward(kind: str, inner: str, *experts: str) -> dict[str, Sizes]:
    """The three matrices of a feed-forward block, dense, of all experts, or shared."""
    return {
        f"ffn_gate{kind}.weight": (*experts, inner, HIDDEN),
        f"ffn_up{kind}.weight": (*experts, inner, HIDDEN),
        f"ffn_down{kind}.weight": (*experts, HIDDEN, inner),
    }


USUAL: dict[str, Sizes] = {
    **dict.fromkeys((f"{norm}.{part}" for norm in NORMS for part in ("weight", "bias")), (HIDDEN,)),
    "output.bias": (ROWS,),
    "token_embd.weight": (ROWS, HIDDEN),
    "output.weight": (ROWS, HIDDEN),
    "attn_q.weight": (QUERIES, HIDDEN),
    "attn_k.weight": (KEYS, HIDDEN),
    "attn_v.weight": (KEYS, HIDDEN),
    "attn_output.weight": (HIDDEN, QUERIES),
    "attn_q_norm.weight": (HEAD,),
    "attn_k_norm.weight": (HEAD,),
    "attn_q.bias": (QUERIES,),
    "attn_k.bias": (KEYS,),
    "attn_v.bias": (KEYS,),
    "attn_output.bias": (HIDDEN,),
    **_feed_forward("", INNER),
    **_feed_forward("_exps", EXPERT, "num_experts"),
    **_feed_forward("_shexp", SHARED),
    "ffn_gate.bias": (INNER,),
    "ffn_up.bias": (INNER,),
    "ffn_down.bias": (HIDDEN,),
    "ffn_gate_inp.weight": ("num_experts", HIDDEN),
    "ffn_gate_inp_shexp.weight": (1, HIDDEN),
}
