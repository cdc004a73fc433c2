"""EXAONE 3.0 and 3.5: Llama's graph under GPT-2's names."""

from converters.decoder import DEFAULTS, DROPPED, DYNAMIC, GIVEN_HEAD_DIM, HEAD, ROPE, SIZES, SQUARE, YARN_GRAPH
from converters.rope import llama3_factors
from converters.spec import Family, Generated, Ratio

LAYER = "transformer.h.{i}"
ATTN = LAYER + ".attn.attention"
MLP = LAYER + ".mlp"

EXAONE = Family(
    name="exaone",
    architectures=("ExaoneForCausalLM",),
    arch="exaone",
    tensors=HEAD
    | {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "transformer.ln_f.weight",
        "rope_freqs.weight": Generated(llama3_factors),
        "blk.{i}.attn_norm.weight": LAYER + ".ln_1.weight",
        "blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",
        "blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
        "blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
        "blk.{i}.attn_output.weight": ATTN + ".out_proj.weight",
        "blk.{i}.ffn_norm.weight": LAYER + ".ln_2.weight",
        "blk.{i}.ffn_gate.weight": MLP + ".c_fc_0.weight",
        "blk.{i}.ffn_up.weight": MLP + ".c_fc_1.weight",
        "blk.{i}.ffn_down.weight": MLP + ".c_proj.weight",
    },
    layouts={"model.embed_tokens.weight": "transformer.wte.weight"},
    metadata=SIZES | GIVEN_HEAD_DIM | ROPE | {"rope.dimension_count": "rope_dim"},
    fields={
        "num_hidden_layers": "num_layers",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    },
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5, "rope_dim": Ratio("hidden_size", "num_attention_heads")},
    floats=("rms_norm_eps",),
    requires=YARN_GRAPH
    | SQUARE
    | {
        "hidden_act": ("silu", None),
        "rope_type": ("default", "linear", "llama3", "yarn", "dynamic"),
        "rope_dynamic_factor": (),
    },
    notes=DYNAMIC,
    dropped=DROPPED,
)
