"""InternLM 2 and 2.5: Llama's graph, with queries, keys and values in one matrix, group by group."""

from converters.decoder import DEFAULTS, DROPPED, DYNAMIC, LAYER, ROPE, SIZES, SQUARE
from converters.spec import Family, optional, rows
from converters.spec.combined import group_rows
from converters.spec.derive import head_size
from converters.spec.orders import part_of_each

ATTN = LAYER + ".attention"
MLP = LAYER + ".feed_forward"
HEADS = "num_attention_heads"
KV_HEADS = "num_key_value_heads"
GROUP = ("group_rows", "head_rows", "head_rows")  # its queries, its key, its value

INTERNLM2 = Family(
    name="internlm2",
    architectures=("InternLM2ForCausalLM",),
    arch="internlm2",
    tensors={
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": optional("lm_head.weight"),
        "blk.{i}.attn_norm.weight": LAYER + ".attention_norm.weight",
        "blk.{i}.attn_q.weight": rows(ATTN + ".wqkv.weight", part_of_each(KV_HEADS, GROUP, 0), heads=HEADS),
        "blk.{i}.attn_k.weight": rows(ATTN + ".wqkv.weight", part_of_each(KV_HEADS, GROUP, 1), heads=KV_HEADS),
        "blk.{i}.attn_v.weight": rows(ATTN + ".wqkv.weight", part_of_each(KV_HEADS, GROUP, 2)),
        "blk.{i}.attn_output.weight": ATTN + ".wo.weight",
        "blk.{i}.ffn_norm.weight": LAYER + ".ffn_norm.weight",
        "blk.{i}.ffn_gate.weight": MLP + ".w1.weight",
        "blk.{i}.ffn_down.weight": MLP + ".w2.weight",
        "blk.{i}.ffn_up.weight": MLP + ".w3.weight",
    },
    layouts={"model.embed_tokens.weight": "model.tok_embeddings.weight", "lm_head.weight": "output.weight"},
    metadata=SIZES | ROPE,
    defaults=DEFAULTS,
    derived={"head_rows": head_size, "group_rows": group_rows},
    requires=SQUARE
    | {
        "hidden_act": ("silu", None),
        "bias": (False, None),
        "rope_type": ("default", "linear", "dynamic"),
        "rope_dynamic_factor": (),
    },
    notes=DYNAMIC,
    dropped=DROPPED,
    head="always",
)
