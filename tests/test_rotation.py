"""The rotation of positions in config.json: known kinds become flat fields, what is not known is refused."""

import json
from pathlib import Path

import pytest
from configs import read_fields, written_config

from exporter.config import read_config
from exporter.errors import RunError

ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "twisted"}, "rope type 'twisted' is not supported; expected one of default.*other positions"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, "rope type 'longrope' lacks long_factor"),
        ({"rope_type": "longrope", "short_factor": 1.0}, "short_factor is 1.0, expected a list"),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": 1}, "truncate is 1, expected true or false"),
        ({"type": "dynamic"}, "rope type 'dynamic' lacks factor"),
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
        read_fields(written_config("llama", tmp_path, **{field: rope}), "llama")


def test_rotations_that_are_known_become_flat_fields(tmp_path: Path) -> None:
    plain = read_config(written_config("llama", tmp_path, rope_parameters=YARN | {"partial_rotary_factor": 1.0}))
    assert {
        key: value
        for key, value in plain.items()
        if key.startswith("rope_") and key not in {"rope_scaling", "rope_parameters"}
    } == {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "rope_scaling_type": "yarn",
        "rope_scaling_factor": 4.0,
        "rope_original_context": 32768,
    }
    assert plain["partial_rotary_factor"] == 1.0
    for text in ('{"full_attention": null}', '{"full_attention": {}, "sliding_attention": 3}'):
        with pytest.raises(RunError, match=r"rope_parameters .*only plain rotation is known"):
            read_config(written_config("llama", tmp_path, rope_parameters=json.loads(text)))


def test_two_trained_contexts_that_disagree_are_refused(tmp_path: Path) -> None:
    both = {"rope_scaling": YARN, "original_max_position_embeddings": 64}
    with pytest.raises(RunError, match=r"original_max_position_embeddings is 64 beside .* and 32768 among them"):
        read_fields(written_config("llama", tmp_path, **both), "llama")
    same = written_config("llama", tmp_path, **both | {"original_max_position_embeddings": 32768})
    assert read_fields(same, "llama")["rope_original_context"] == 32768
