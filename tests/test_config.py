"""config.json in one spelling: two versions of transformers say the same, and what llama.cpp cannot compute stops."""

import json
import os
import re
from pathlib import Path

import pytest
import transformers
from configs import family_of, read_fields, written_config
from tiny import TINY, make

from exporter.config import COUNTS, FLOATS, NULLABLE, complete, read_config
from exporter.errors import RunError
from exporter.run import open_run

# Fields that only say how, or by what, the file was written; rotation is compared in its flat fields.
UNREAD = {"transformers_version", "dtype", "torch_dtype", "rope_scaling", "rope_parameters", "_sliding_window_pattern"}
UNREAD |= {"layer_types"}  # read into a pattern, which is compared
UNREAD |= {"qkv_bias", "bias"}  # InternLM 3's
UNREAD |= {"rotary_emb_base", "rotary_pct"}  # GPT-NeoX's names of fields that are compared by ours
UNREAD |= {"global_head_dim", "num_global_key_value_heads", "gated_kv_heads", "per_layer_config"}  # Gemma 4's
# What a vision wrapper's two spellings have beside the text model's fields.
NESTED = {"text_config", "vision_config", "model_type"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize("name", TINY)
def test_two_spellings_give_one_config(name: str, tmp_path: Path) -> None:
    old = dict(open_run(make(name, tmp_path / "v4", spelling="v4")).config)
    new = dict(open_run(make(name, tmp_path / "v5", spelling="v5")).config)
    assert {k: v for k, v in old.items() if k not in UNREAD | NESTED} == {
        k: v for k, v in new.items() if k not in UNREAD | NESTED
    }
    assert old["architecture"] == TINY[name].architecture
    config = TINY[name].config
    text = config.get("text_config", config)
    assert old["num_hidden_layers"] == text.get("num_hidden_layers", old["num_hidden_layers"])


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00"])
def test_a_broken_file_is_refused(text: str, tmp_path: Path) -> None:
    file = make("llama", tmp_path) / "config.json"
    file.write_text(text)
    with pytest.raises(RunError, match=r"config.json: (cannot be read as JSON .*Restore it|holds a .*expected a JSON)"):
        open_run(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [7]])
def test_a_config_without_an_architecture_is_refused(architectures: object, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"names no architecture \(`architectures`\). Copy the field"):
        read_config(written_config("llama", tmp_path, architectures=architectures))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config.json: there is no such file"):
        read_config(tmp_path / "config.json")


NO_COUNTS = (0, -1, 2**31, 10**4000, 64.0, "64", True, [64], {}, float("nan"))
NO_FLOATS = (0, -1.0, 1e300, 10**400, float("nan"), float("inf"))
PHI_YARN = {"type": "yarn", "long_factor": [1.0] * 8, "short_factor": [1.0] * 8}
WINDOW, FULL = "sliding_attention", "full_attention"
GEMMA4_LAYERS = (
    ([FULL] * 6, f"reused_kinds is '{FULL} {FULL}'; llama.cpp computes gemma4 only with '{WINDOW} {FULL}'"),
    ([WINDOW, FULL] * 2 + [FULL, WINDOW], f"last_kind is '{WINDOW}'"),
    (["chunked_attention", FULL] * 3, "windowed cannot be worked out .*says 'chunked_attention'"),
)
GEMMA4_OWN = (
    ({"1": {"head_dim": 64}}, "per_layer_config gives full_attention layers head_dim 64 and None"),
    ({"0": {"head_dim": 64}}, "per_layer_config gives layer 0, sliding_attention, its own head_dim"),
    ({"1": {"intermediate_size": 64}}, "per_layer_config gives layer 1, full_attention, its own intermediate_size"),
)
GEMMA4_ROPE = {FULL: {"rope_type": "proportional"}, WINDOW: {"rope_type": "default", "partial_rotary_factor": 0.5}}
REFUSED = (
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; llama.cpp computes llama only with 'silu'"),
    ("llama", {"rope_scaling": None, "head_dim": None, "num_attention_heads": None}, "num_attention_heads is None"),
    (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 9},
        "use_sliding_window is True; llama.cpp computes qwen2 only with False",
    ),
    ("qwen3", {"attention_bias": True}, "attention_bias is True; llama.cpp computes qwen3 only with False"),
    ("qwen2moe", {"norm_topk_prob": True}, "norm_topk_prob is True; llama.cpp computes qwen2moe only with False"),
    ("qwen2moe", {"mlp_only_layers": [1]}, r"mlp_only_layers is \[1\]"),
    ("qwen2moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2; llama.cpp computes qwen2moe only with 1"),
    ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob is False; llama.cpp computes qwen3moe only with True"),
    ("gemma", {"hidden_act": None, "hidden_activation": "relu"}, "hidden_act is 'relu'; llama.cpp computes"),
    ("gemma2", {"hidden_act": None, "hidden_activation": "relu"}, "hidden_act is 'relu'; llama.cpp computes gemma2"),
    ("gemma", {"hidden_activation": "relu"}, "hidden_act is 'gelu_pytorch_tanh' and hidden_activation is 'relu': two"),
    ("mixtral", {"num_experts": 8}, "num_experts is 8 and num_local_experts is 4: two names of one field. Remove the"),
    ("mixtral", {"n_routed_experts": 8}, "num_local_experts is 4 and n_routed_experts is 8: two names of one field"),
    ("gemma3", {"rope_local_theta": 5.0}, "rope_local_theta is 5.0 and rope_local_base_freq is 10000.0: two names"),
    ("gemma", {"rope_theta": 20000.0}, "rope_theta is 20000.0; llama.cpp computes gemma only with 10000.0"),
    ("gemma2", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64; llama.cpp computes gemma2 only with 32"),
    ("gemma2", {"layer_types": ["full_attention"] * 4}, "sliding_window_pattern is 1"),
    ("gemma3", {"query_pre_attn_scalar": 168}, "query_pre_attn_scalar is 168; llama.cpp computes gemma3 only with 32"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; .* only with none"),
    (
        "gemma3",
        {"layer_types": ["full_attention", "sliding_attention"] * 3 + ["full_attention"]},
        "sliding_window_pattern is 'irregular'",
    ),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("gemma2", {"layer_types": ["sliding_attention"] * 4}, "sliding_window_pattern is 'without a full layer'"),
    ("gemma3", {"layer_types": ["sliding_attention"] * 7}, "sliding_window_pattern is 'without a full layer'"),
    ("gemma3", {"layer_types": ["chunked_attention"] * 7}, "sliding_window_pattern is 'irregular'"),
    ("gemma3", {"layer_types": ["sliding_attention"] * 6}, "layer_types has 6 entries, expected one for each of 7"),
    ("gemma3", {"layer_types": 7}, "layer_types has 7, expected one for each of 7"),
    *(("llama", {"hidden_size": value}, "hidden_size is .*, expected a whole number from 1") for value in NO_COUNTS),
    *(("mixtral", {name: -1, "num_local_experts": -1}, "is -1, expected a whole number") for name in COUNTS),
    ("llama", {"num_hidden_layers": None}, "num_hidden_layers is None, expected a whole number"),
    ("gemma3", {"sliding_window": 0}, "sliding_window is 0, expected a whole number from 1"),
    *(("llama", {name: value}, f"{name} is .*, expected a number above 0") for name in FLOATS for value in NO_FLOATS),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0, expected a number above 0"),
    ("qwen2", {"rope_scaling": YARN | {"original_max_position_embeddings": 2**31}}, "expected a whole number from 1"),
    ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', expected a number"),
    ("phi3-long", {"rope_scaling": PHI_YARN}, "rope type 'yarn' has a field 'long_factor' that is not known"),
    ("phi3-long", {"hidden_size": 32}, "rope_long_factors are 8, expected 4"),
    ("phi3", {"head_dim": 32}, "head_dim is 32; llama.cpp computes phi3 only with 16"),
    ("command-r", {"use_qk_norm": True}, "use_qk_norm is True; llama.cpp computes command-r only with False"),
    ("command-r", {"num_hidden_layers": 64}, "use_qk_norm is False; llama.cpp computes command-r only with True"),
    ("command-r", {"logit_scale": 0}, "logit_scale is 0, expected a number above 0"),
    ("cohere2", {"sliding_window_pattern": 2}, "sliding_window_pattern is 2; llama.cpp computes cohere2 only with 4"),
    ("cohere2", {"rotary_pct": 0.5}, "rotary_pct is 0.5"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0, 1]}, r"no_rope_layers is \[1, 0, 1, 0, 1\]"),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}, "no_rope_layer_interval is 2"),
    ("granite", {"head_dim": 32}, "head_dim is 32; llama.cpp computes granite only with 16"),
    ("granitemoe", {"attention_bias": True}, "attention_bias is True"),
    ("glm", {"head_dim": 32}, "head_dim is 32; llama.cpp computes chatglm only with 16"),
    ("phi2", {"rope_theta": 20000.0}, "rope_theta is 20000.0; llama.cpp computes phi2 only with 10000.0"),
    ("phi2", {"qk_layernorm": True}, "qk_layernorm is True"),
    ("phi2", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("olmo", {"attention_bias": True}, "attention_bias is True"),
    ("olmo", {"clip_qkv": 0}, "clip_qkv is 0, expected a number above 0"),
    ("olmo2", {"head_dim": 32}, "head_dim is 32; llama.cpp computes olmo2 only with 16"),
    ("olmo3", {"rope_local_theta": 9.0}, "rope_local_theta is 9.0; llama.cpp computes olmo2 only with 500000.0"),
    ("olmo3", {"rope_scaling": YARN | {"attention_factor": 1.5}}, "rope_attention_factor is 1.5"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0; llama.cpp computes olmoe only with none"),
    ("olmoe", {"norm_topk_prob": True}, "norm_topk_prob is True"),
    ("olmoe", {"num_key_value_heads": 2}, "num_key_value_heads is 2; llama.cpp computes olmoe only with 4"),
    ("starcoder2", {"use_bias": False}, "use_bias is False; llama.cpp computes starcoder2 only with True"),
    ("starcoder2", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
    ("gptneox", {"attention_bias": False}, "attention_bias is False; llama.cpp computes gptneox only with True"),
    ("gptneox", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    *(("gemma4", {"layer_types": kinds}, message) for kinds, message in GEMMA4_LAYERS),
    *(("gemma4", {"per_layer_config": own}, message) for own, message in GEMMA4_OWN),
    ("gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
    ("gemma4", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_type is 'default'"),
    ("gemma4", {"rope_parameters": GEMMA4_ROPE}, "only plain rotation is known for windowed layers"),
    ("gemma3n", {"num_kv_shared_layers": 10}, "own_key_layers is 15; llama.cpp computes gemma3n only with 20"),
    ("gemma3n", {"intermediate_size": [96] * 24 + [160]}, "intermediate_size cannot be worked out .*the same number"),
    ("gemma3n", {"activation_sparsity_pattern": [0.5] * 25}, "activation_sparsity_pattern is"),
    ("gemma3n", {"laurel_rank": 32}, "laurel_rank is 32; llama.cpp computes gemma3n only with 64"),
    ("gemma3n", {"final_logit_softcapping": 20.0}, "final_logit_softcapping is 20.0"),
    ("stablelm", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; llama.cpp computes stablelm only with 'silu'"),
    ("deepseek", {"norm_topk_prob": True}, "norm_topk_prob is True; llama.cpp computes deepseek only with False"),
    ("deepseek2", {"n_group": 2}, "n_group is 2; llama.cpp computes deepseek2 only with 1"),
    ("deepseek2", {"rope_scaling": YARN}, "yarn_log_multiplier cannot be worked out .YaRN without mscale_all_dim"),
    ("deepseek2", {"num_key_value_heads": 2}, "num_key_value_heads is 2; llama.cpp computes deepseek2 only with 4"),
    ("deepseek3", {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05; llama.cpp computes deepseek2 only with 1e-06"),
    ("deepseek3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
    ("deepseek3", {"rope_interleave": False}, "rope_interleave is False"),
    ("gptoss", {"swiglu_limit": 5.0}, "swiglu_limit is 5.0; llama.cpp computes gpt-oss only with 7.0"),
    ("gptoss", {"rope_scaling": None}, "rope_type is 'default'; llama.cpp computes gpt-oss only with 'yarn'"),
    ("llama4", {"use_qk_norm": False}, "use_qk_norm is False; llama.cpp computes llama4 only with True"),
    ("llama4", {"attention_chunk_size": 16}, "attention_chunk_size is 16; llama.cpp computes llama4 only with 8192"),
    ("llama4", {"no_rope_layers": [1, 1, 1, 1]}, r"no_rope_layers is \[1, 1, 1, 1\]"),
    ("llama4", {"moe_layers": [1, 3]}, r"moe_layers is \[1, 3\]; llama.cpp computes llama4 only with \(0, 1, 2, 3\)"),
)


@pytest.mark.parametrize(("name", "fields", "message"), REFUSED)
def test_what_the_graph_does_not_compute_is_refused(
    name: str, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    read_fields(written_config(name, tmp_path), name)
    with pytest.raises(RunError, match=message):
        read_fields(written_config(name, tmp_path, **fields), name)


@pytest.mark.parametrize("name", TINY)
def test_defaults_are_those_of_transformers(name: str) -> None:
    family = family_of(name)
    if family.name == "mistral3":
        pytest.skip("its two text models have different defaults, so it has none")
    for architecture in family.architectures:
        if not hasattr(transformers, architecture):  # transformers has no such model, or has it under another name
            continue
        made = getattr(transformers, architecture).config_class()
        theirs = getattr(made, "text_config", made).to_dict() | {"tie_word_embeddings": made.tie_word_embeddings}
        theirs |= {"num_experts": theirs.get("num_experts", theirs.get("num_local_experts"))}
        rope = theirs.get("rope_parameters", {"rope_theta": family.defaults["rope_theta"]})  # GPT-2 turns nothing
        theirs |= {"partial_rotary_factor": rope["partial_rotary_factor"]} if "partial_rotary_factor" in rope else {}
        theirs["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
        theirs["rope_local_theta"] = rope.get("sliding_attention", {}).get("rope_theta")
        theirs["partial_rotary_factor"] = rope.get("partial_rotary_factor")
        theirs |= {ours: theirs[name] for ours, name in family.fields.items() if name in theirs}
        theirs.setdefault("rms_norm_eps", family.defaults["rms_norm_eps"])  # not used where norms subtract the mean
        numbers = {key: value for key, value in family.defaults.items() if isinstance(value, bool | int | float)}
        assert numbers == {key: theirs[key] for key in numbers}
        assert {"rope_theta", "rms_norm_eps", "tie_word_embeddings"} <= set(numbers)
        assert not {key for key in NULLABLE if theirs.get(key) and not theirs.get("use_sliding_window")} - set(numbers)


@pytest.mark.parametrize("field", NULLABLE)
def test_null_is_not_the_familys_default(field: str, tmp_path: Path) -> None:
    file = written_config("gemma2", tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: None}))
    with pytest.raises(RunError, match=rf"{field} is (null, that is none; llama.cpp computes gemma2 always|None; )"):
        read_fields(file, "gemma2")
    without = json.loads(file.read_text())
    del without[field]
    nulls = {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None}
    file.write_text(json.dumps(without | nulls | {"query_pre_attn_scalar": 256}))
    read = read_fields(file, "gemma2")
    assert read[field] == family_of("gemma2").defaults[field]
    assert (read["head_dim"], read["num_key_value_heads"]) == (256, read["num_attention_heads"])


def test_two_names_of_a_field_may_agree(tmp_path: Path) -> None:
    assert read_fields(written_config("mixtral", tmp_path, num_experts=4), "mixtral")["num_experts"] == 4
    fields = {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}  # as Gemma's first releases have it
    assert read_fields(written_config("gemma", tmp_path, **fields), "gemma")["hidden_act"] == "gelu_pytorch_tanh"
    text = {"rope_local_theta": 7.0}  # the text model's own fields come before those at the top
    assert read_config(written_config("gemma3", tmp_path, text_config=text))["rope_local_theta"] == 7.0


def test_few_layers_may_all_be_windowed(tmp_path: Path) -> None:
    file = written_config("gemma3", tmp_path, num_hidden_layers=5, layer_types=["sliding_attention"] * 5)
    assert "sliding_window_pattern" not in read_fields(file, "gemma3")


def test_json_that_is_too_deep_or_no_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"cannot be read as JSON"):
        read_config(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RunError, match=r"config.json: is no file"):
        read_config(file)


@pytest.mark.parametrize("name", TINY)
def test_every_requirement_of_a_family_is_met_by_its_model(name: str, tmp_path: Path) -> None:
    config = open_run(make(name, tmp_path)).config
    family = family_of(name)
    assert set(family.defaults) <= {*config, *(key for key, value in family.defaults.items() if value is None)}


def test_a_window_that_llama_cpp_ignores_is_a_warning(tmp_path: Path) -> None:
    file = written_config("mistral", tmp_path, sliding_window=4096)
    warnings = complete(read_config(file), family_of("mistral"), file)[1]
    assert len(warnings) == 1
    assert re.search(r"not to the last 4096 as in training", warnings[0])
    assert open_run(make("mistral", tmp_path / "plain")).warnings == ()


@pytest.mark.parametrize("name", ["deepseek3", "qwen3moe"])
def test_a_flag_that_is_null_is_false(name: str, tmp_path: Path) -> None:
    file = make(name, tmp_path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"norm_topk_prob": None}))
    if name == "qwen3moe":  # whose graph norms them always
        with pytest.raises(RunError, match="norm_topk_prob is False"):
            open_run(tmp_path)
    else:
        assert open_run(tmp_path).config["norm_topk_prob"] is False
