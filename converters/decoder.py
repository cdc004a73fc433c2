"""What decoder-only families share: the rows of a layer, the keys of their metadata, the stored layouts."""

from converters.spec import (
    AtLayers,
    Default,
    Field,
    Layouts,
    Ratio,
    Required,
    Row,
    SameAs,
    each,
    given,
    optional,
    part,
    plus_one,
)
from converters.spec.derive import Derive, all_but_every, lacks, layers_but, where
from converters.spec.layers import numbers_of, worded

LAYER = "model.layers.{i}"
ATTN = LAYER + ".self_attn"
MLP = LAYER + ".mlp"

DECODER: dict[str, str | Row] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.{i}.attn_norm.weight": LAYER + ".input_layernorm.weight",
    "blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",
    "blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
    "blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
    "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
}
HEAD: dict[str, str | Row] = {"output.weight": optional("lm_head.weight")}
ATTN_BIASES: dict[str, str | Row] = {
    "blk.{i}.attn_q.bias": ATTN + ".q_proj.bias",
    "blk.{i}.attn_k.bias": ATTN + ".k_proj.bias",
    "blk.{i}.attn_v.bias": ATTN + ".v_proj.bias",
    "blk.{i}.attn_output.bias": ATTN + ".o_proj.bias",
}
QK_NORM: dict[str, str | Row] = {
    "blk.{i}.attn_q_norm.weight": ATTN + ".q_norm.weight",
    "blk.{i}.attn_k_norm.weight": ATTN + ".k_norm.weight",
}
FFN_NORM: dict[str, str | Row] = {"blk.{i}.ffn_norm.weight": LAYER + ".post_attention_layernorm.weight"}
FFN: dict[str, str | Row] = {
    "blk.{i}.ffn_gate.weight": MLP + ".gate_proj.weight",
    "blk.{i}.ffn_up.weight": MLP + ".up_proj.weight",
    "blk.{i}.ffn_down.weight": MLP + ".down_proj.weight",
}
NORM_BIASES: dict[str, str | Row] = {
    "output_norm.bias": "model.norm.bias",
    "blk.{i}.attn_norm.bias": LAYER + ".input_layernorm.bias",
    "blk.{i}.ffn_norm.bias": LAYER + ".post_attention_layernorm.bias",
}
GEMMA_NORMS: dict[str, str | Row] = {
    "output_norm.weight": plus_one("model.norm.weight"),
    "blk.{i}.attn_norm.weight": plus_one(LAYER + ".input_layernorm.weight"),
    "blk.{i}.post_attention_norm.weight": plus_one(LAYER + ".post_attention_layernorm.weight"),
    "blk.{i}.ffn_norm.weight": plus_one(LAYER + ".pre_feedforward_layernorm.weight"),
    "blk.{i}.post_ffw_norm.weight": plus_one(LAYER + ".post_feedforward_layernorm.weight"),
}
POST_NORMS: dict[str, str | Row] = {  # OLMo's second and third: queries and keys are normed whole, not by heads
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.{i}.attn_q.weight": ATTN + ".q_proj.weight",
    "blk.{i}.attn_k.weight": ATTN + ".k_proj.weight",
    "blk.{i}.attn_v.weight": ATTN + ".v_proj.weight",
    "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
    "blk.{i}.attn_q_norm.weight": ATTN + ".q_norm.weight",
    "blk.{i}.attn_k_norm.weight": ATTN + ".k_norm.weight",
    "blk.{i}.post_attention_norm.weight": LAYER + ".post_attention_layernorm.weight",
    "blk.{i}.post_ffw_norm.weight": LAYER + ".post_feedforward_layernorm.weight",
}
EXPERTS: dict[str, str | Row] = {
    "blk.{i}.ffn_gate_inp.weight": MLP + ".gate.weight",
    "blk.{i}.ffn_gate_exps.weight": MLP + ".experts.{e}.gate_proj.weight",
    "blk.{i}.ffn_up_exps.weight": MLP + ".experts.{e}.up_proj.weight",
    "blk.{i}.ffn_down_exps.weight": MLP + ".experts.{e}.down_proj.weight",
}
SHARED_EXPERTS: dict[str, str | Row] = {  # as one block
    "blk.{i}.ffn_gate_shexp.weight": MLP + ".shared_experts.gate_proj.weight",
    "blk.{i}.ffn_up_shexp.weight": MLP + ".shared_experts.up_proj.weight",
    "blk.{i}.ffn_down_shexp.weight": MLP + ".shared_experts.down_proj.weight",
}

FUSED_EXPERTS: Layouts = {  # as transformers 5 stores them
    MLP + ".experts.{e}.gate_proj.weight": part(MLP + ".experts.gate_up_proj", 0, of=2),
    MLP + ".experts.{e}.up_proj.weight": part(MLP + ".experts.gate_up_proj", 1, of=2),
    MLP + ".experts.{e}.down_proj.weight": each(MLP + ".experts.down_proj"),
}

SIZES: dict[str, str | Field] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
UNGROUPED_SIZES: dict[str, str | Field] = {  # where norms subtract the mean, and each head has keys of its own
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_epsilon": "layer_norm_eps",
}
LAYER_NORM_SIZES = UNGROUPED_SIZES | {"attention.head_count_kv": "num_key_value_heads"}
HEAD_DIM: dict[str, str | Field] = {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
GIVEN_HEAD_DIM: dict[str, str | Field] = {  # where it is absent, llama.cpp divides as transformers does
    "attention.key_length": given("head_dim"),
    "attention.value_length": given("head_dim"),
}
ROPE: dict[str, str | Field] = {
    "rope.freq_base": "rope_theta",
    "rope.scaling.type": given("rope_scaling_type"),
    "rope.scaling.factor": given("rope_scaling_factor"),
    "rope.scaling.original_context_length": given("rope_original_context"),
    "rope.scaling.yarn_ext_factor": given("rope_extrapolation_factor"),
    "rope.scaling.yarn_attn_factor": given("rope_attention_factor"),
    "rope.scaling.yarn_beta_fast": given("rope_beta_fast"),
    "rope.scaling.yarn_beta_slow": given("rope_beta_slow"),
}
GRANITE_SCALES: dict[str, str | Field] = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
GRANITE_FACTORS = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
GRANITE_KEYS = SIZES | ROPE | GRANITE_SCALES | {"vocab_size": "vocab_size", "rope.dimension_count": "rope_dim"}
EXPERT_COUNTS: dict[str, str | Field] = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}

DEFAULTS: dict[str, Default] = {
    "num_key_value_heads": SameAs("num_attention_heads"),
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
MIXTRAL_DEFAULTS = DEFAULTS | {"rms_norm_eps": 1e-5, "rope_theta": 1000000.0}
GRANITE_DEFAULTS: dict[str, Default] = (
    DEFAULTS | dict.fromkeys(GRANITE_FACTORS, 1.0) | {"rope_dim": Ratio("hidden_size", "num_attention_heads")}
)
GEMMA_DEFAULTS: dict[str, Default] = {
    "head_dim": 256,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
# What llama.cpp's graphs assume and no metadata key can say. Of YaRN's own keys these graphs read none: the betas are
# 32 and 1, and queries and keys are scaled by 0.1 ln(factor) + 1, as in transformers where attention_factor is absent.
YARN_GRAPH: dict[str, tuple[Required, ...]] = {
    "rope_beta_fast": (32.0, None),
    "rope_beta_slow": (1.0, None),
    "rope_extrapolation_factor": (1.0, None),
    "rope_attention_factor": (None,),
}
# Where a family works out `yarn_attention`, a config that says the same number is right too.
YARN_SAID: dict[str, tuple[Required, ...]] = YARN_GRAPH | {"rope_attention_factor": (None, SameAs("yarn_attention"))}
SQUARE: dict[str, tuple[Required, ...]] = {  # graphs that derive the size of a head from the width
    "head_dim": (Ratio("hidden_size", "num_attention_heads"), None)
}
WIDE_GRAPH: dict[str, tuple[Required, ...]] = (
    YARN_SAID
    | SQUARE
    | {"hidden_act": ("silu", None), "attention_bias": (False, None), "rope_type": ("default", "linear", "yarn")}
)
TANH_GELU: tuple[Required, ...] = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", None)  # names of one formula
GRANITE_GRAPH: dict[str, tuple[Required, ...]] = YARN_GRAPH | {
    "hidden_act": ("silu", None),
    "rope_type": ("default", "linear", "yarn"),
    "head_dim": (None, Ratio("hidden_size", "num_attention_heads")),
}
QWEN_GRAPH: dict[str, tuple[Required, ...]] = YARN_GRAPH | {
    "hidden_act": ("silu", None),
    "rope_type": ("default", "linear", "yarn"),
    "use_sliding_window": (False, None),
}
ALL_SPARSE: dict[str, tuple[Required, ...]] = {"decoder_sparse_step": (1, None), "mlp_only_layers": ((), None)}
GEMMA_GRAPH: dict[str, tuple[Required, ...]] = {
    "hidden_act": ("gelu_pytorch_tanh", None),
    "attention_bias": (False, None),
    "use_bidirectional_attention": (False, None),
}


def feed_forward(module: str, kind: str) -> dict[str, str | Row]:
    """The three matrices of a feed-forward block, ``blk.{i}.ffn_gate<kind>.weight`` and the like."""
    return {f"blk.{{i}}.ffn_{part}{kind}.weight": f"{module}.{part}_proj.weight" for part in ("gate", "up", "down")}


def scaled_by_head_dim(*, but_at: int) -> dict[str, tuple[Required, ...]]:
    """Scores divided by the root of the head size; by that of hidden size / heads in the model of so many layers."""
    ratio = Ratio("hidden_size", "num_attention_heads")
    return {"query_pre_attn_scalar": (AtLayers(but_at, then=ratio, otherwise=SameAs("head_dim")),)}


# Rotation tables were saved as buffers by transformers before 4.32; they hold nothing that config.json does not say.
DROPPED = (".rotary_emb.inv_freq",)
# Llama 4's graph goes by numbers of its own: which layers have no rotation and see everything, which have experts, how
# far the others see, and how scores grow with the place; queries and keys are normed unless there are 128 experts.
LLAMA4_GRAPH: dict[str, tuple[Required, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "rope_type": ("default", "llama3"),
    "moe_layers": (SameAs("sparse_numbers"), None),
    "no_rope_layers": (SameAs("rotated"), (), None),
    "no_rope_layer_interval": (4, None),
    "layer_types": (SameAs("kinds"), None),
    "use_qk_norm": (SameAs("llamacpps_qk_norm"),),
    "attention_chunk_size": (8192, None),
    "attn_temperature_tuning": (True, 4, None),
    "floor_scale": (8192, None),
    "attn_scale": (0.1, None),
}
LLAMA4_LAYERS: dict[str, Derive] = {
    "rotated": all_but_every(4),
    "kinds": worded("rotated", "chunked_attention", "full_attention"),
    "dense_layers": all_but_every("interleave_moe_layer_step"),
    "sparse_layers": layers_but("dense_layers"),
    "sparse_numbers": numbers_of("sparse_layers"),
    "unnormed": where("num_experts", 128),
    "llamacpps_qk_norm": lacks("unnormed"),
}
UNTRUNCATED = {
    "untruncated": "llama.cpp rounds the two dimensions between which YaRN blends its frequencies, the training did "
    "not: some frequencies differ by a few percent, in the file that the levels are measured against too."
}
WINDOW = {
    "sliding_window": "llama.cpp lets every token attend to all before it, not to the last {value} as in training: "
    "answers agree up to that length."
}
DYNAMIC = {
    "rope_dynamic_factor": "llama.cpp knows no dynamic rotation: answers agree up to the trained context "
    "(max_position_embeddings), beyond it the model was to turn positions more slowly (factor {value})."
}
NATIVE: Layouts = {  # Mistral's own names of weights
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    LAYER + ".input_layernorm.weight": "layers.{i}.attention_norm.weight",
    ATTN + ".q_proj.weight": "layers.{i}.attention.wq.weight",
    ATTN + ".k_proj.weight": "layers.{i}.attention.wk.weight",
    ATTN + ".v_proj.weight": "layers.{i}.attention.wv.weight",
    ATTN + ".o_proj.weight": "layers.{i}.attention.wo.weight",
    LAYER + ".post_attention_layernorm.weight": "layers.{i}.ffn_norm.weight",
    MLP + ".gate_proj.weight": "layers.{i}.feed_forward.w1.weight",
    MLP + ".down_proj.weight": "layers.{i}.feed_forward.w2.weight",
    MLP + ".up_proj.weight": "layers.{i}.feed_forward.w3.weight",
}
NATIVE_VISION = {
    "vision tower": ("vision_encoder.",),
    "vision projector": ("vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm."),
}
ASSUMED_CONTEXT = {
    "assumed_context": "params.json does not say how long a context the model was trained on; the file says {value}."
}
VISION = {
    "vision tower": ("vision_tower.", "model.vision_tower."),
    "vision projector": ("multi_modal_projector.", "model.multi_modal_projector."),
}
