"""config.json in one spelling: two versions of transformers say the same, and what llama.cpp cannot compute stops."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny import TINY, make

from converters import find
from converters.spec import Family
from exporter.config import COUNTS, FLOATS, NULLABLE, complete, read_config
from exporter.errors import RunError
from exporter.run import open_run

# Fields that only say how, or by what, the file was written; rotation is compared in its flat fields.
UNREAD = {"transformers_version", "dtype", "torch_dtype", "rope_scaling", "rope_parameters", "_sliding_window_pattern"}
# What a vision wrapper's two spellings leave at the top beside the text model's fields.
NESTED = {"text_config", "vision_config"}
ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def _family(name: str) -> Family:
    family = find(TINY[name].architecture)
    assert family is not None
    return family


def _config(name: str, folder: Path, **fields: object) -> Path:
    """A tiny model's config.json (its text part) with other fields; None takes one away."""
    config: dict[str, Any] = {"architectures": [TINY[name].architecture]} | dict(TINY[name].config)
    folder.mkdir(exist_ok=True)
    kept = {key: value for key, value in (config | fields).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder / "config.json"


def _read(file: Path, name: str) -> dict[str, object]:
    return complete(read_config(file), _family(name), file)[0]


@pytest.mark.parametrize("name", TINY)
def test_two_spellings_give_one_config(name: str, tmp_path: Path) -> None:
    old = dict(open_run(make(name, tmp_path / "v4", spelling="v4")).config)
    new = dict(open_run(make(name, tmp_path / "v5", spelling="v5")).config)
    assert {k: v for k, v in old.items() if k not in UNREAD | NESTED} == {
        k: v for k, v in new.items() if k not in UNREAD | NESTED
    }
    assert old["architecture"] == TINY[name].architecture
    assert old["num_hidden_layers"] in {2, 4, 7}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00"])
def test_a_broken_file_is_refused(text: str, tmp_path: Path) -> None:
    file = make("llama", tmp_path) / "config.json"
    file.write_text(text)
    with pytest.raises(RunError, match=r"config.json: (cannot be read as JSON .*Restore it|holds a .*expected a JSON)"):
        open_run(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [7]])
def test_a_config_without_an_architecture_is_refused(architectures: object, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"names no architecture \(`architectures`\). Copy the field"):
        read_config(_config("llama", tmp_path, architectures=architectures))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config.json: there is no such file"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "twisted", "factor": 8.0}, "rope type 'twisted' is not supported; expected one of default"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, "rope type 'longrope' lacks long_factor"),
        ({"rope_type": "longrope", "short_factor": 1.0}, "short_factor is 1.0, expected a list"),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": 1}, "truncate is 1, expected true or false"),
        ({"type": "dynamic", "factor": 8.0}, "rope type 'dynamic' is not supported.*other positions"),
        ({"rope_type": "linear"}, "rope type 'linear' lacks factor"),
        (ROPE, "rope type 'llama3' lacks original_max_position_embeddings. Copy them"),
        ({"rope_type": "linear", "factor": "4"}, "factor is '4', expected a number"),
        ({"rope_type": "linear", "factor": True}, "factor is True, expected a number"),
        ({"rope_type": "linear", "factor": 4.0, "twist": 2}, "'linear' has a field 'twist' that is not known here"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; llama.cpp computes"),
        ({"rope_type": "default", "mrope_section": [2, 3, 3]}, r"rope_sections is \(2, 3, 3\); llama.cpp computes"),
        ({"rope_type": "yarn", "factor": 4.0}, "rope type 'yarn' lacks original_max_position_embeddings"),
        (YARN | {"mscale": 0.7}, "rope_mscale is 0.7; llama.cpp computes llama only with none"),
        ("linear", "the rotation's parameters are 'linear', expected an object"),
        ({"full_attention": {"rope_type": "default"}, "chunked": {}}, "only plain rotation is known"),
    ],
)
@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_a_rotation_that_is_not_known_is_refused(field: str, rope: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        _read(_config("llama", tmp_path, **{field: rope}), "llama")


def test_rotations_that_are_known_become_flat_fields(tmp_path: Path) -> None:
    plain = read_config(_config("llama", tmp_path, rope_parameters=YARN | {"partial_rotary_factor": 1.0}))
    assert {key: value for key, value in plain.items() if key.startswith("rope_") and key not in UNREAD} == {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "rope_scaling_type": "yarn",
        "rope_scaling_factor": 4.0,
        "rope_original_context": 32768,
    }
    assert plain["partial_rotary_factor"] == 1.0
    for text in ('{"full_attention": null}', '{"full_attention": {}, "sliding_attention": 3}'):
        with pytest.raises(RunError, match=r"rope_parameters .*only plain rotation is known"):
            read_config(_config("llama", tmp_path, rope_parameters=json.loads(text)))


NO_COUNTS = (0, -1, 2**31, 10**4000, 64.0, "64", True, [64], {}, float("nan"))
NO_FLOATS = (0, -1.0, 1e300, 10**400, float("nan"), float("inf"))
REFUSED = (
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; llama.cpp computes llama only with 'silu'"),
    ("llama", {"rope_scaling": None, "head_dim": None, "num_attention_heads": None}, "num_attention_heads is None"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True; llama.cpp computes qwen2 only with False"),
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
)


@pytest.mark.parametrize(("name", "fields", "message"), REFUSED)
def test_what_the_graph_does_not_compute_is_refused(
    name: str, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    _read(_config(name, tmp_path), name)
    with pytest.raises(RunError, match=message):
        _read(_config(name, tmp_path, **fields), name)


@pytest.mark.parametrize("name", TINY)
def test_defaults_are_those_of_transformers(name: str) -> None:
    family = _family(name)
    for architecture in family.architectures:
        if architecture == "LLaMAForCausalLM":  # a name of before transformers had the model
            continue
        made = getattr(transformers, architecture).config_class()
        theirs = getattr(made, "text_config", made).to_dict()
        rope = theirs["rope_parameters"]
        theirs["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
        theirs["rope_local_theta"] = rope.get("sliding_attention", {}).get("rope_theta")
        numbers = {key: value for key, value in family.defaults.items() if isinstance(value, bool | int | float)}
        assert numbers == {key: theirs[key] for key in numbers}
        assert {"rope_theta", "rms_norm_eps", "tie_word_embeddings"} <= set(numbers)
        assert not {key for key in NULLABLE if theirs.get(key) and not theirs.get("use_sliding_window")} - set(numbers)


@pytest.mark.parametrize("field", NULLABLE)
def test_null_is_not_the_familys_default(field: str, tmp_path: Path) -> None:
    file = _config("gemma2", tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: None}))
    with pytest.raises(RunError, match=rf"{field} is (null, that is none; llama.cpp computes gemma2 always|None; )"):
        _read(file, "gemma2")
    without = json.loads(file.read_text())
    del without[field]
    nulls = {"head_dim": None, "num_key_value_heads": None, "rope_scaling": None}
    file.write_text(json.dumps(without | nulls | {"query_pre_attn_scalar": 256}))
    read = _read(file, "gemma2")
    assert read[field] == _family("gemma2").defaults[field]
    assert (read["head_dim"], read["num_key_value_heads"]) == (256, read["num_attention_heads"])


def test_two_names_of_a_field_may_agree(tmp_path: Path) -> None:
    assert _read(_config("mixtral", tmp_path, num_experts=4), "mixtral")["num_experts"] == 4
    fields = {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}  # as Gemma's first releases have it
    assert _read(_config("gemma", tmp_path, **fields), "gemma")["hidden_act"] == "gelu_pytorch_tanh"
    text = {"rope_local_theta": 7.0}  # the text model's own fields come before those at the top
    assert read_config(_config("gemma3", tmp_path, text_config=text))["rope_local_theta"] == 7.0


def test_few_layers_may_all_be_windowed(tmp_path: Path) -> None:
    file = _config("gemma3", tmp_path, num_hidden_layers=5, layer_types=["sliding_attention"] * 5)
    assert "sliding_window_pattern" not in _read(file, "gemma3")


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
    family = _family(name)
    assert set(family.defaults) <= {*config, *(key for key, value in family.defaults.items() if value is None)}


def test_a_window_that_llama_cpp_ignores_is_a_warning(tmp_path: Path) -> None:
    file = _config("mistral", tmp_path, sliding_window=4096)
    warnings = complete(read_config(file), _family("mistral"), file)[1]
    assert len(warnings) == 1
    assert re.search(r"not to the last 4096 as in training", warnings[0])
    assert open_run(make("mistral", tmp_path / "plain")).warnings == ()
