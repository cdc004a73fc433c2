"""Files of a run that contradict each other, or are damaged: refused by name, or read as transformers reads them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import load, merged, source_of, train, write_adapter
from exported import change_json, planned
from safetensors.torch import load_file, save_file
from tiny import make

from exporter import Options, export, load_profile
from exporter.errors import GgufxError, MergeError, OutputError, PlanError, RunError, SourceError

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def export_to(out: Path, run: Path, *levels: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401  (by name)
    asked = Options(**{"verify": False, "threads": 1} | options)
    profiles = [load_profile(level) for level in levels]
    return dict(export(str(run), profiles, out, options=asked, progress=lambda _step, _done, _total: None)[0])


def scale(run: Path, name: str, factor: float) -> None:
    weights = load_file(run / "model.safetensors")
    save_file(weights | {name: weights[name] * factor}, run / "model.safetensors", {"format": "pt"})


# config.json


def test_two_rotations_are_refused(tmp_path: Path) -> None:
    run = make("qwen2", tmp_path / "run", spelling="v5")
    change_json(run / "config.json", rope_scaling=YARN)
    with pytest.raises(RunError, match=r"rope_parameters .* and rope_scaling .*yarn.* remove the one"):
        planned(run, "q8_0")


@pytest.mark.parametrize("field", ["rope_scaling_factor", "rope_original_context", "rope_scaling_type", "rope_dim"])
def test_a_field_that_transformers_does_not_know_means_nothing(field: str, tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    before = planned(run, "q8_0").outputs[0].metadata
    change_json(run / "config.json", **{field: 8})
    assert planned(run, "q8_0").outputs[0].metadata == before


def test_a_null_of_the_text_model_does_not_hide_what_stands_outside(tmp_path: Path) -> None:
    run = make("gemma3-vision", tmp_path / "run", spelling="v5")
    (run / "generation_config.json").unlink()
    change_json(run / "tokenizer_config.json", chat_template=None)
    text = planned(run, "q8_0").tokenizer.metadata
    config = {"eos_token_id": [1, 107]}
    change_json(run / "config.json", **config)
    document = (run / "config.json").read_text()
    (run / "config.json").write_text(document.replace('"text_config": {', '"text_config": {"eos_token_id": null, ', 1))
    found = planned(run, "q8_0").tokenizer.metadata
    assert found["tokenizer.ggml.eot_token_id"] == 107
    assert found["tokenizer.ggml.eos_token_id"] == text["tokenizer.ggml.eos_token_id"]


@pytest.mark.parametrize(
    ("flags", "extra", "message"),
    [
        ({"attention_bias": False}, {}, r"self_attn\.\w_proj\.bias .* is in the model, but not in a llama"),
        ({}, {"mlp.up_proj.bias": 160}, r"mlp\.up_proj\.bias .* is in the model, but not in a llama"),
        ({"mlp_bias": True}, {}, r"mlp\.\w+_proj\.bias is missing"),
    ],
)
def test_the_config_says_which_biases_there_are(
    flags: dict[str, object], extra: dict[str, int], message: str, tmp_path: Path
) -> None:
    run = make("llama-bias", tmp_path / "run")
    change_json(run / "config.json", **flags)
    weights = load_file(run / "model.safetensors")
    weights |= {f"model.layers.{i}.{name}": torch.ones(rows) for name, rows in extra.items() for i in range(2)}
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(PlanError, match=message):
        planned(run, "q8_0")


# adapter_config.json


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": r".*\.q_proj"},
        {"exclude_modules": ["up_proj"]},
        {"exclude_modules": r".*layers\.0.*"},
    ],
)
def test_modules_that_the_config_leaves_out_are_refused(fields: dict[str, object], tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj", "v_proj", "up_proj"])
    change_json(run / "adapter_config.json", **fields)
    with pytest.raises(MergeError, match=r"has lora_A and lora_B of .*PEFT would leave the module as it was"):
        source_of(run, base)


def test_a_pattern_that_names_the_modules_is_taken(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=r".*layers\.\d+\.(self_attn|mlp)\.(q|v|up)_proj")
    assert len(source_of(run, base).changes.by_weight) == 6
    assert len(merged(load(base), run)) > 6


def test_levels_of_two_bases_in_the_adapters_own_folder_are_told_apart(tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    write_adapter(run, run, {})
    document = export_to(tmp_path / "out", run, "q8_0", base=str(run))
    scale(run, "model.layers.1.mlp.up_proj.weight", 1.5)
    with pytest.raises(
        OutputError, match=r"of another run, or of this one made otherwise: the base: files in \S+ were changed since"
    ):
        export_to(tmp_path / "out", run, "q4_0", base=str(run))
    changed = export_to(tmp_path / "other", run, "q4_0", base=str(run))
    assert document["run"]["base"]["sha256"] != changed["run"]["base"]["sha256"]


# Weights and files


def test_a_perplexity_beyond_all_numbers_leaves_the_files_unmeasured(tmp_path: Path) -> None:
    run, text = make("llama", tmp_path / "run"), tmp_path / "text.txt"
    text.write_text("the of and to in is that it was for on are with this have you 123's\n" * 160)
    scale(run, "lm_head.weight", 1e4)
    document = export_to(tmp_path / "out", run, "q8_0", text=text, chunks=1, verify=True)
    (level,) = document["levels"]
    assert level["verdict"] == "error"
    assert "perplexity has no number" in level["error"]


@pytest.mark.parametrize("place", range(180, 720, 60))
def test_a_damaged_bin_file_is_refused_by_name(place: int, tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    (run / "model.safetensors").unlink()
    torch.save(weights, run / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    data = bytearray((run / "pytorch_model.bin").read_bytes())
    data[place] ^= 0x15
    (run / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(GgufxError, match=r"pytorch_model\.bin|is missing|has no place"):
        planned(run, "q8_0")


def test_an_index_of_names_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    run = make("llama", tmp_path / "run", shards=2)
    change_json(run / "model.safetensors.index.json", weight_map={"model.norm.weight": "x" * 5000})
    with pytest.raises(SourceError, match=r"names x+, which is not in the folder"):
        planned(run, "q8_0")


@pytest.mark.parametrize("name", ["./runn", "../runn/", "runs/runn", "~/runn"])
def test_a_mistyped_path_is_no_name_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"there is no such folder. Give the run, a folder or a Hub id"):
        planned(Path(name) if name.startswith("r") else name, "q8_0")  # type: ignore[arg-type]
