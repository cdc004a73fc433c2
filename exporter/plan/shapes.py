"""How large each tensor is to be, by what config.json says."""

import re
from typing import TYPE_CHECKING, cast

from converters.spec import Config, Family
from exporter.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.plan.tensors import Tensor


def check_shapes(tensors: "Sequence[Tensor]", family: Family, config: Config) -> None:
    """PlanError where a tensor is not as large as config.json says."""
    rows = next((tensor.shape[0] for tensor in tensors if tensor.name == "token_embd.weight"), None)
    usual = {} if rows is None else _expected_shapes(config, rows)
    for tensor in tensors:
        found = re.match(r"(?:v\.)?blk\.(\d+)\.", tensor.name)
        layer, name = (int(found[1]), tensor.name[found.end() :]) if found else (0, tensor.name)
        size = _own(family.shapes[name], config, layer) if name in family.shapes else usual.get(name)
        if size is not None and tensor.shape != size:
            raise PlanError(
                f"{tensor.sources[0]} is {list(tensor.shape)}, config.json makes it {list(size)}. The weights and "
                "config.json are of different models."
            )


def _own(shape: "tuple[str | int, ...] | None", config: Config, layer: int) -> tuple[object, ...] | None:
    """A shape that differs from the usual, in one layer; None: any."""
    if shape is None:
        return None
    sizes = [config[one] if isinstance(one, str) else one for one in shape]
    return tuple(size[layer] if isinstance(size, tuple) else size for size in sizes)


def _expected_shapes(config: Config, rows: int) -> dict[str, tuple[object, ...] | None]:
    """The shape of each tensor by its name in a layer, as config.json says; the embedding's rows are its own."""
    hidden, heads = cast("int", config["hidden_size"]), cast("int", config["num_attention_heads"])
    head = cast("int", config.get("head_dim", hidden // heads))
    queries, keys = heads * head, cast("int", config["num_key_value_heads"]) * head
    inner, count = config.get("intermediate_size"), config.get("num_experts")
    experts = config.get("moe_intermediate_size", inner)
    shared = config.get("shared_expert_intermediate_size", inner)
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "output_norm")
    return dict.fromkeys((f"{norm}.{part}" for norm in norms for part in ("weight", "bias")), (hidden,)) | {
        "output.bias": (rows,),
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
