"""What Gemma 3n and 4 share, and what differs between Gemma 4's layers."""

from converters.decoder import DEFAULTS, GEMMA_GRAPH, LAYER
from converters.spec import Default, Field, Required, Row, SameAs, given, rows
from converters.spec.combined import any_of
from converters.spec.derive import Derive, constant, or_else, product_of, times
from converters.spec.layers import (
    alike,
    all_layers_but,
    as_many_as_tokens,
    both,
    by_layer,
    chosen,
    first_layers,
    holds_unless,
    last_kind,
    last_kinds_before,
    last_layers,
    of_full_layers,
    times_each,
    twice,
    windowed,
)

NORMS: dict[str, str | Row] = {  # stored as they are, not less one
    "blk.{i}.post_attention_norm.weight": LAYER + ".post_attention_layernorm.weight",
    "blk.{i}.ffn_norm.weight": LAYER + ".pre_feedforward_layernorm.weight",
    "blk.{i}.post_ffw_norm.weight": LAYER + ".post_feedforward_layernorm.weight",
}
# transformers takes the first row for a token that has none, llama.cpp's converter writes zeros.
PER_LAYER_EMBEDDINGS: dict[str, str | Row] = {
    "per_layer_token_embd.weight": rows("model.embed_tokens_per_layer.weight", as_many_as_tokens),
    "per_layer_model_proj.weight": "model.per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "model.per_layer_projection_norm.weight",
    "blk.{i}.inp_gate.weight": LAYER + ".per_layer_input_gate.weight",
    "blk.{i}.proj.weight": LAYER + ".per_layer_projection.weight",
    "blk.{i}.post_norm.weight": LAYER + ".post_per_layer_input_norm.weight",
}
MEDIA: dict[str, tuple[str, ...]] = {
    "vision tower": ("vision_tower.", "model.vision_tower."),
    "vision projector": ("embed_vision.", "model.embed_vision."),
    "audio tower": ("audio_tower.", "model.audio_tower."),
    "audio projector": ("embed_audio.", "model.embed_audio."),
}
PER_LAYER_SHAPES: dict[str, tuple[str | int, ...]] = {
    "per_layer_token_embd.weight": ("vocab_size", "per_layer_sizes"),
    "per_layer_model_proj.weight": ("per_layer_sizes", "hidden_size"),
    "per_layer_proj_norm.weight": ("hidden_size_per_layer_input",),
    "inp_gate.weight": ("hidden_size_per_layer_input", "hidden_size"),
    "proj.weight": ("hidden_size", "hidden_size_per_layer_input"),
    "post_norm.weight": ("hidden_size",),
}
SHARING: dict[str, Derive] = {
    "windowed": windowed,
    "reuses": last_layers("num_kv_shared_layers"),
    "reused_kinds": last_kinds_before("num_kv_shared_layers"),
    "per_layer_sizes": product_of("num_hidden_layers", "hidden_size_per_layer_input"),
}
# Layers without keys of their own read those of the last layer of their kind, which llama.cpp takes to be the last
# without a window and, one before it, the last with one.
SHARING_GRAPH: dict[str, tuple[Required, ...]] = {"reused_kinds": ("sliding_attention full_attention", "")}
WINDOWS: dict[str, str | Field] = {
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_theta",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "windowed",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
}
WINDOW_DEFAULTS: dict[str, Default] = DEFAULTS | {
    "head_dim": 256,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
    "rope_theta": 1000000.0,
    "rope_local_theta": 10000.0,
}

SPARSE = 1.6448535919189453  # how many deviations above the mean the upper 5 % of normal numbers begin, by torch
GEMMA3N_DEFAULTS: dict[str, Default] = WINDOW_DEFAULTS | {
    "max_position_embeddings": 32768,
    "num_kv_shared_layers": 15,
    "final_logit_softcapping": 30.0,
    "laurel_rank": 64,
    "altup_active_idx": 0,
    "altup_num_inputs": 4,
    "altup_correct_scale": True,
}
GEMMA3N_DERIVED: dict[str, Derive] = SHARING | {
    "intermediate_size": alike("intermediate_size"),
    "own_key_layers": all_layers_but("num_kv_shared_layers"),
    "further_streams": constant(3),
    "sparsity": first_layers(10, SPARSE, float("-inf")),
    "first_10_sparse": first_layers(10, 0.95, 0.0),
}
GEMMA3N_GRAPH: dict[str, tuple[Required, ...]] = (  # llama.cpp has these sizes in its code
    GEMMA_GRAPH
    | SHARING_GRAPH
    | {
        "rope_type": ("default",),
        "final_logit_softcapping": (30.0,),
        "own_key_layers": (20,),
        "hidden_size_per_layer_input": (256,),
        "laurel_rank": (64,),
        "altup_num_inputs": (4,),
        "altup_active_idx": (0,),
        "altup_correct_scale": (True,),
        "activation_sparsity_pattern": (SameAs("first_10_sparse"), None),
    }
)
GEMMA3N_SHAPES: dict[str, tuple[str | int, ...]] = PER_LAYER_SHAPES | {
    "ffn_gate.weight": ("intermediate_size", "hidden_size"),
    "ffn_up.weight": ("intermediate_size", "hidden_size"),
    "ffn_down.weight": ("hidden_size", "intermediate_size"),
    "altup_proj.weight": ("further_streams", "hidden_size", "hidden_size"),
    "altup_unembd_proj.weight": ("further_streams", "hidden_size", "hidden_size"),
    "altup_correct_coef.weight": (4, 4),
    "altup_correct_scale.weight": ("hidden_size",),
    "altup_predict_coef.weight": (16, 4),
    "altup_router.weight": (4, "hidden_size"),
    "altup_router_norm.weight": ("hidden_size",),
    "laurel_l.weight": ("laurel_rank", "hidden_size"),
    "laurel_r.weight": ("hidden_size", "laurel_rank"),
    "laurel_post_norm.weight": ("hidden_size",),
}

GEMMA4_DEFAULTS: dict[str, Default] = WINDOW_DEFAULTS | {"max_position_embeddings": 131072, "num_kv_shared_layers": 0}
GEMMA4_METADATA: dict[str, str | Field] = WINDOWS | {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "inner_sizes",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "kv_head_counts",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "full_head_dim",
    "attention.value_length": "full_head_dim",
    "attention.key_length_swa": "head_dim",
    "attention.value_length_swa": "head_dim",
    "attention.shared_kv_layers": "shared_layers",
    "embedding_length_per_layer_input": "per_layer_size",
    "final_logit_softcapping": "logit_cap",
    "rope.dimension_count": "full_head_dim",
    "rope.dimension_count_swa": "head_dim",
    "expert_count": given("mixed_experts"),
    "expert_used_count": given("mixed_experts_per_tok"),
    "expert_feed_forward_length": given("mixed_size"),
}
GEMMA4_GRAPH: dict[str, tuple[Required, ...]] = (
    GEMMA_GRAPH
    | SHARING_GRAPH
    | {
        "some layer windowed": (True,),
        "last_kind": ("full_attention",),  # transformers makes it one, whatever config.json says
        "rope_type": ("proportional",),
        "partial_rotary_factor": (),
        "use_bidirectional_attention": (False, None, "vision"),  # text sees only what is before it
    }
)
GEMMA4_DERIVED: dict[str, Derive] = SHARING | {
    "some layer windowed": any_of("windowed"),
    "last_kind": last_kind,
    "shared_layers": or_else("num_kv_shared_layers", 0),  # unlike other counts they may be 0
    "per_layer_size": or_else("hidden_size_per_layer_input", 0),
    "logit_cap": or_else("final_logit_softcapping", 0.0),  # llama.cpp caps at 30 where the file says nothing
    "full_head_dim": of_full_layers("head_dim", "global_head_dim", 512),
    "gated_kv_heads": both("attention_k_eq_v", "num_global_key_value_heads"),
    "full_kv_heads": of_full_layers("num_key_value_heads", "gated_kv_heads"),
    "head_sizes": by_layer("windowed", "head_dim", "full_head_dim"),
    "kv_heads": by_layer("windowed", "num_key_value_heads", "full_kv_heads"),
    "kv_head_counts": chosen("full_kv_heads", "kv_heads", "num_key_value_heads"),
    "query_rows": times_each("num_attention_heads", "head_sizes"),
    "key_rows": times_each("kv_heads", "head_sizes"),
    "own_values": holds_unless("windowed", "attention_k_eq_v"),
    "mixed_experts": both("enable_moe_block", "num_experts"),
    "mixed_experts_per_tok": both("enable_moe_block", "num_experts_per_tok"),
    "mixed_size": both("enable_moe_block", "moe_intermediate_size"),
    "expert_pair": twice("moe_intermediate_size"),
    "double_size": times("intermediate_size", 2),
    "widened": by_layer("reuses", "double_size", "intermediate_size"),
    "inner_sizes": chosen("use_double_wide_mlp", "widened", "intermediate_size"),
}
GEMMA4_SHAPES: dict[str, tuple[str | int, ...]] = PER_LAYER_SHAPES | {
    "attn_q.weight": ("query_rows", "hidden_size"),
    "attn_k.weight": ("key_rows", "hidden_size"),
    "attn_v.weight": ("key_rows", "hidden_size"),
    "attn_output.weight": ("hidden_size", "query_rows"),
    "attn_q_norm.weight": ("head_sizes",),
    "attn_k_norm.weight": ("head_sizes",),
    "ffn_gate.weight": ("inner_sizes", "hidden_size"),
    "ffn_up.weight": ("inner_sizes", "hidden_size"),
    "ffn_down.weight": ("hidden_size", "inner_sizes"),
    "layer_output_scale.weight": (1,),
    "ffn_gate_inp.scale": ("hidden_size",),
    "ffn_gate_up_exps.weight": ("num_experts", "expert_pair", "hidden_size"),
    "ffn_down_exps.scale": ("num_experts",),
    "pre_ffw_norm_2.weight": ("hidden_size",),
    "post_ffw_norm_1.weight": ("hidden_size",),
    "post_ffw_norm_2.weight": ("hidden_size",),
}
GEMMA4_VISIBLE = frozenset(  # what a chat's parser reads in the answer
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)
