"""Mistral 3, InternLM, EXAONE, Baichuan: what graphs cannot compute is refused; Baichuan 2's head."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from exported import change_json, planned, written
from f32_logits import f32_logits
from gguf import GGUFReader
from tiny import TINY, make, weights

from exporter.errors import RunError

YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "rope_theta": 1000000.0}
SCALED = YARN | {"llama_4_scaling_beta": 0.1}
REFUSED: Mapping[str, tuple[str, Mapping[str, object], str]] = {
    "Ministral 3 without YaRN": ("ministral3", {"rope_parameters": {"rope_theta": 1e6}}, "ministral3 default"),
    "Mistral 4": ("ministral3", {"model_type": "mistral4"}, "mistral4 yarn"),
    "mscale alone": ("ministral3", {"rope_parameters": SCALED | {"mscale": 1.0}}, "rope_mscale is 1.0"),
    "mscale of 0.7": (
        "ministral3",
        {"rope_parameters": SCALED | {"mscale": 0.7, "mscale_all_dim": 0.7}},
        "rope_mscale_all_dim is 0.7",
    ),
    "an attention factor": ("ministral3", {"rope_parameters": SCALED | {"attention_factor": 2}}, "attention_factor is"),
    "InternLM 2 with biases": ("internlm2", {"bias": True}, "bias is True"),
    "InternLM 2 with YaRN": ("internlm2", {"rope_scaling": YARN}, "rope_type is 'yarn'"),
    "EXAONE 4 with windows in 2 layers": ("exaone4", {"sliding_window": 16}, "sliding_windows is True"),
    "EXAONE 4 of 64 layers without": ("exaone4-window", {"sliding_window": None}, "sliding_windows is False"),
    "EXAONE 3.5 with GELU": ("exaone", {"activation_function": "gelu"}, "hidden_act is 'gelu'"),
    "Baichuan of other layers": ("baichuan", {"num_hidden_layers": 28}, "num_hidden_layers is 28"),
    "Baichuan, tied": ("baichuan", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    "Baichuan with groups": ("baichuan", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_does_not_compute_is_refused(case: str, tmp_path: Path) -> None:
    name, changes, message = REFUSED[case]
    run = make(name, tmp_path / "run")
    document = json.loads((run / "config.json").read_text()) | dict(changes)
    (run / "config.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=message):
        planned(run, "f32")


@pytest.mark.parametrize("name", ["internlm2", "internlm3"])
def test_dynamic_rotation_is_said_to_end_with_the_context(name: str, tmp_path: Path) -> None:
    plan = planned(make(name, tmp_path / "run"), "f32")
    assert [note for note in plan.warnings if "no dynamic rotation" in note]


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
def test_the_rows_of_baichuan_2s_head_have_length_1(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  (seconds to import)

    first, second = (make("baichuan", tmp_path / name / "run") for name in ("first", "second"))
    change_json(second / "config.json", vocab_size=125696)  # all that tells the two apart
    files = [written(run, run.parent / "out")[1]["f32"] for run in (first, second)]
    one, other = ({t.name: np.array(t.data) for t in GGUFReader(file).tensors} for file in files)
    assert [name for name in one if not np.array_equal(one[name], other[name])] == ["output.weight"]
    normed = torch.nn.functional.normalize(torch.from_numpy(one["output.weight"])).numpy()
    assert np.abs(other["output.weight"] - normed).max() <= 2**-24
    ids = np.arange(3, 51, dtype=np.int32)
    forward = TINY["baichuan"].forward
    assert forward is not None
    truth = forward(weights("baichuan") | {"lm_head.weight": normed}, dict(TINY["baichuan"].config), ids)
    assert np.abs(f32_logits(files[1], ids) - truth).max() < 2e-5 * truth.std()
