"""Files of a run that contradict each other, or are damaged: refused by name, or read as transformers reads them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import adapted, by_our_names, finished, largest_excess, load, merged, source_of, train, write_adapter
from exported import change_json, planned
from peft_cases import case
from peft_cases import train as train_case
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


HEAD_PAIR = {
    "base_model.model.lm_head.lora_A.weight": torch.full((4, 64), 0.5),
    "base_model.model.lm_head.lora_B.weight": torch.full((409, 4), 0.25),
}
MLP = "base_model.model.model.layers.0.mlp"
MLP_PAIR = {f"{MLP}.down_proj.lora_A.weight": torch.ones(4, 160), f"{MLP}.down_proj.lora_B.weight": torch.ones(64, 4)}
MLP_COPY = {f"{MLP}.{name}_proj.weight": torch.ones(160, 64) for name in ("up", "gate")}
MLP_COPY |= {f"{MLP}.down_proj.weight": torch.ones(64, 160)}
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
FIRST = "layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "targets", "saved"),
    [
        (HEAD_PAIR, "lm_head", "lm_head"),
        (HEAD_PAIR | {"base_model.model.lm_head.weight": torch.ones(409, 64)}, "lm_head", "lm_head"),
        (MLP_PAIR | MLP_COPY, "layers.0.mlp.down_proj", "layers.0.mlp"),
        (MLP_PAIR | MLP_COPY, "layers.0.mlp.down_proj", "mlp"),
    ],
)
def test_lora_on_a_module_that_is_saved_whole_is_refused(
    tensors: dict[str, torch.Tensor], targets: str, saved: str, tmp_path: Path
) -> None:
    """PEFT loads the saved copy, and nothing of the pair."""
    base = make("llama", tmp_path / "base")
    run = write_adapter(tmp_path / "run", base, tensors, target_modules=[FIRST, targets], modules_to_save=[saved])
    with pytest.raises(MergeError, match=rf"lora_A and lora_B of \S*{targets}, which modules_to_save .*{saved}"):
        source_of(run, base)


def test_trained_tokens_of_an_embedding_that_is_saved_whole_are_refused(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj"], trainable_token_indices=[3, 5])
    change_json(run / "adapter_config.json", modules_to_save=["embed_tokens"])
    with pytest.raises(MergeError, match=r"trained tokens of model\.embed_tokens, which modules_to_save"):
        source_of(run, base)


def test_a_bias_of_lora_b_that_the_config_does_not_know_is_refused(tmp_path: Path) -> None:
    base = make("llama-bias", tmp_path / "base")
    run = write_adapter(tmp_path / "run", base, {f"{Q_PROJ}.lora_B.bias": torch.ones(64)})
    with pytest.raises(MergeError, match=r"lora_B\.bias, and adapter_config\.json does not say lora_bias"):
        source_of(run, base)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_a_bias_by_its_plain_name_is_taken_from_a_peft_that_called_it_so(bias: str, tmp_path: Path) -> None:
    """PEFT before 0.7 trained the module's own bias; since then it is the base layer's, and the other is left out."""
    base = make("llama-bias", tmp_path / "base")
    run = write_adapter(tmp_path / "run", base, {f"{Q_PROJ}.bias": torch.full((64,), 3.0)}, bias=bias)
    assert finished(source_of(run, base))[f"model.{FIRST}.bias"].eq(3).all()
    change_json(run / "adapter_config.json", peft_version="0.19.0")
    with pytest.raises(MergeError, match=r"q_proj\.bias beside .*before 0\.7.*peft_version.*q_proj\.base_layer\.bias"):
        source_of(run, base)


@pytest.mark.parametrize("method", ["LORA", "LOHA"])
def test_modules_within_one_that_is_saved_whole_are_not_missing(method: str, tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    fields: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["layers.1.mlp"]}
    if method == "LORA":
        run = train(load(base), tmp_path / "run", **fields)
    else:
        run = train_case(case(method, **fields), base, tmp_path / "run")
    ids, model, live = torch.tensor([[1, 5, 6, 3, 8, 250]]), load(base), adapted(load(base), run)
    with torch.no_grad():
        before = model(ids).logits
        model.load_state_dict(finished(source_of(run, base)), strict=True)
        found, expected = model(ids).logits, live(ids).logits
    assert float((found - expected).abs().max()) < 1e-4
    assert float((before - expected).abs().max()) > 1


def test_a_module_of_a_part_that_is_left_out_may_be_saved_whole(tmp_path: Path) -> None:
    """Its parameters have names that no part of the text model has."""
    base = make("gemma3-vision", tmp_path / "base")
    targets = r".*language_model.*v_proj"
    run = train(load(base), tmp_path / "run", target_modules=targets, modules_to_save=["multi_modal_projector"])
    source = source_of(run, base)
    assert any("mm_input_projection_weight" in name for name in source.changes.left_out)
    assert largest_excess(finished(source), merged(load(base), run), by_our_names(load(base).state_dict())) <= 1
