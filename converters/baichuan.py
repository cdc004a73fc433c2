"""Baichuan 1 and 2: Llama's graph with queries, keys and values in one matrix; the 13B has ALiBi in place of rotation.

Baichuan 2 divides each row of its head by its length when it runs. llama.cpp does not, so the file holds the quotients;
the two are told apart, as by the models' own code, by the size of the vocabulary: 64,000 tokens, or 125,696.
"""

from converters.decoder import ATTN, DROPPED, FFN, FFN_NORM, LAYER, SIZES, SQUARE
from converters.spec import Family, Ratio, SameAs, given, rows, unit_rows
from converters.spec.derive import at_least, constant
from converters.spec.orders import part_of_each

HEADS = "num_attention_heads"
THIRDS = ("hidden_size", "hidden_size", "hidden_size")

BAICHUAN = Family(
    name="baichuan",
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    arch="baichuan",
    tensors=FFN_NORM
    | FFN
    | {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": unit_rows("lm_head.weight", by="is_baichuan_2"),
        "blk.{i}.attn_norm.weight": LAYER + ".input_layernorm.weight",
        "blk.{i}.attn_q.weight": rows(ATTN + ".W_pack.weight", part_of_each("one", THIRDS, 0), heads=HEADS),
        "blk.{i}.attn_k.weight": rows(ATTN + ".W_pack.weight", part_of_each("one", THIRDS, 1), heads=HEADS),
        "blk.{i}.attn_v.weight": rows(ATTN + ".W_pack.weight", part_of_each("one", THIRDS, 2)),
        "blk.{i}.attn_output.weight": ATTN + ".o_proj.weight",
    },
    metadata=SIZES
    | {"tensor_data_layout": "tensor_data_layout", "rope.dimension_count": "rope_dim"}
    | {"rope.freq_base": given("rope_theta")},
    fields={"max_position_embeddings": "model_max_length"},
    defaults={
        "num_key_value_heads": SameAs(HEADS),
        "rms_norm_eps": 1e-6,
        "rope_dim": Ratio("hidden_size", HEADS),
        "tie_word_embeddings": False,
    },
    derived={
        "one": constant(1),
        "tensor_data_layout": constant("Meta AI original pth"),
        "is_baichuan_2": at_least("vocab_size", 125696),
    },
    counts=("model_max_length",),
    requires=SQUARE
    | {
        "hidden_act": ("silu", None),
        # llama.cpp goes by the number of layers: 32 rotate, 40 have ALiBi, others have neither.
        "num_hidden_layers": (32, 40),
        "num_key_value_heads": (SameAs(HEADS),),
        "rope_type": ("default",),
        "rope_theta": (10000.0, None),
        "tie_word_embeddings": (False,),
    },
    dropped=DROPPED,
)
