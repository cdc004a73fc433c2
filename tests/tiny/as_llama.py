"""Architectures that transformers has no class for, computed by its Llama: the same graph under other names."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .values import Array, Config, Weights

if TYPE_CHECKING:
    import torch

Forward = Callable[[Weights, Config, NDArray[np.int32]], Array]
Shapes = dict[str, tuple[int, ...]]


def as_llama(
    renamed: Callable[[Weights, Config], Weights] | None = None, *, alibi: bool = False, **fields: str
) -> Forward:
    """The logits of a model as transformers' Llama computes them.

    Args:
        renamed: gives the weights under Llama's names, where they have others.
        alibi: positions are told by ALiBi, not by rotation.
        fields: Llama's names of fields that the model calls otherwise.
    """

    def forward(weights: Weights, config: Config, ids: NDArray[np.int32]) -> Array:
        import torch  # noqa: PLC0415  (seconds to import)
        from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

        said = deepcopy(config)  # transformers writes into the rotation's parameters
        said |= {ours: config[theirs] for ours, theirs in fields.items()}
        said = {key: value for key, value in said.items() if key not in {"model_type", *fields.values()}}
        model = LlamaForCausalLM(LlamaConfig(**said, attn_implementation="eager")).eval()
        named = renamed(weights, config) if renamed else weights
        state = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in named.items()}
        tied = {"lm_head.weight": state["model.embed_tokens.weight"]} if said["tie_word_embeddings"] else {}
        model.load_state_dict(state | tied)
        mask = None
        if alibi:
            model.model.rotary_emb.forward = _unrotated
            mask = torch.from_numpy(_alibi_mask(config["num_attention_heads"], len(ids)))
        with torch.no_grad():
            logits: Array = model(torch.from_numpy(ids.astype(np.int64))[None], attention_mask=mask).logits[0].numpy()
        return logits

    return forward


def _unrotated(states: "torch.Tensor", position_ids: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Cosines and sines of no rotation."""
    ones = states.new_ones((*position_ids.shape, 1))
    return ones, 0 * ones


def _alibi_mask(heads: int, length: int) -> Array:
    """What ALiBi (arXiv 2108.12409) adds to scores, (1, heads, length, length): the distance times a head's slope.

    Slopes are a geometric sequence that ends at 2^-8; for a number of heads that is no power of two, of the next
    smaller power, and then every other one of the next larger.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * (heads - power), 2)]
    distance = np.arange(length)[:, None] - np.arange(length)
    mask = np.where(distance < 0, np.finfo(np.float32).min, -distance * np.array(slopes)[:, None, None])
    return mask[None].astype(np.float32)


def llama_shapes(config: Config) -> Shapes:
    """Llama's weights without biases, rows first; no head where it is tied."""
    hidden, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head, config.get("num_key_value_heads", 0) * head
    layer: Shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layers = range(config.get("num_hidden_layers") or config["num_layers"])
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in layers for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (words, hidden), "model.norm.weight": (hidden,)}
    return shapes | ({} if config["tie_word_embeddings"] else {"lm_head.weight": (words, hidden)})


def biased_shapes(config: Config) -> Shapes:
    """Llama's weights with biases in attention and feed-forward blocks."""
    shapes = llama_shapes(config)
    biases = {name.replace("_proj.weight", "_proj.bias"): shape[:1] for name, shape in shapes.items()}
    return {name: shape for name, shape in biases.items() if name.endswith("_proj.bias")} | shapes


def fused(joined: str, size: Callable[[Config], int]) -> Callable[[Config], Shapes]:
    """Llama's weights with queries, keys and values in one matrix of so many rows in each layer, called ``joined``."""

    def shapes(config: Config) -> Shapes:
        parts = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
        rest = {name: shape for name, shape in llama_shapes(config).items() if not name.endswith(parts)}
        matrix = (size(config), config["hidden_size"])
        return rest | {
            f"model.layers.{i}.self_attn.{joined}.weight": matrix for i in range(config["num_hidden_layers"])
        }

    return shapes


def unfused(
    joined: str, cut: Callable[[Array, Config], tuple[Array, Array, Array]]
) -> Callable[[Weights, Config], Weights]:
    """Gives the weights under Llama's names, where ``cut`` makes three of the one matrix called ``joined``."""

    def renamed(weights: Weights, config: Config) -> Weights:
        out = dict(weights)
        for name in [name for name in weights if f".{joined}." in name]:
            for kind, part in zip("qkv", cut(out.pop(name), config), strict=True):
                out[name.replace(joined, f"{kind}_proj")] = part
        return out

    return renamed
