"""How large tensors are: those of projectors, fields that are missing, sides of 0, and ranks that nothing has."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from configs import family_of
from exported import change_json, planned
from safetensors.torch import load_file, save_file
from tiny import TINY, make

from converters import ALL
from converters.spec import EMBEDDING, Generated
from exporter.errors import PlanError, RunError, SourceError
from exporter.pipeline import Options, prepare
from exporter.plan.projector import of_projector
from exporter.plan.tensors import lay_out
from exporter.profiles import load_profile
from exporter.source.files import open_model

SEEING = [name for name, tiny in TINY.items() if tiny.processor is not None]


def eyed(run: Path) -> None:
    planned(run, "f32", mmproj="f16")


def test_every_row_of_a_projector_has_a_shape() -> None:
    for table in [family.projector.table for family in ALL if family.projector]:
        for name, row in table.tensors.items():
            assert not isinstance(row, Generated)
            key = re.sub(r"^v\.blk\.\{i\}\.", "", name).replace("v.deepstack.{i}.", "deepstack.")
            assert table.shapes.get(key), f"{table.name}: {name}"


@pytest.mark.parametrize("name", SEEING)
def test_each_tensor_of_a_projector_is_compared_with_the_config(name: str, tmp_path: Path) -> None:
    run, source, _ = prepare(str(make(name, tmp_path)), [load_profile("f32")], Options(verify=False, mmproj="f16"))
    assert run.vision is not None
    assert run.tower is not None
    table, config = run.tower.table, run.vision.config
    shapes = of_projector(table, source.shapes())
    lay_out(table, config, shapes)
    for weight, (rows, *rest) in shapes.items():
        if weight == EMBEDDING:
            continue  # of which one row is taken; its width is compared in the text
        others = [(rows - 1, *rest), (1, *rest), (2 * rows, *rest), (0, *rest), (rows, *rest, 2), (1, rows, *rest)]
        others += [(rows, *rest[:-1], rest[-1] - 1)] if rest else []
        for other in others:
            with pytest.raises(PlanError, match=re.escape(f"{weight} ")):
                lay_out(table, config, shapes | {weight: other})


@pytest.mark.parametrize("name", ["gemma3-vision", "qwen2.5vl"])
def test_towers_whose_matrices_llamacpp_exchanges_are_refused(name: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    vision = dict(TINY[name].config["vision_config"])
    change_json(run / "config.json", vision_config=vision | {"intermediate_size": vision["hidden_size"]})
    with pytest.raises(RunError, match="intermediate_size equal to hidden_size is True"):
        eyed(run)


def test_images_that_are_no_whole_patches_are_refused(tmp_path: Path) -> None:
    for name in ("gemma3-vision", "llama4-vision"):
        run = make(name, tmp_path / name)
        vision = dict(TINY[name].config["vision_config"])
        change_json(run / "config.json", vision_config=vision | {"image_size": vision["image_size"] + 1})
        with pytest.raises(RunError, match=r"image_size is .* not a multiple of patch_size"):
            eyed(run)


@pytest.mark.parametrize("field", ["projector_output_dim", "vision_output_dim", "intermediate_size"])
def test_matrices_of_llama4s_eyes_that_do_not_follow_one_another_are_refused(field: str, tmp_path: Path) -> None:
    run = make("llama4-vision", tmp_path / "run")
    vision = dict(TINY["llama4-vision"].config["vision_config"])
    for value in (0, 32):
        change_json(run / "config.json", vision_config=vision | {field: value})
        with pytest.raises(RunError, match=f"{field} is {value}"):
            eyed(run)


@pytest.mark.parametrize("name", SEEING)
def test_defaults_of_towers_are_those_of_transformers(name: str) -> None:
    projector = family_of(name).projector
    assert projector is not None
    whole = getattr(transformers, TINY[name].architecture).config_class()
    kind = TINY[name].config["vision_config"]["model_type"]
    made = (
        transformers.AutoConfig.for_model(kind) if kind in {"pixtral", "siglip_vision_model"} else whole.vision_config
    )
    theirs = made.to_dict() | {f"model_{key}": value for key, value in whole.to_dict().items()}
    theirs |= {ours: theirs[other] for ours, other in projector.table.fields.items() if other in theirs}
    theirs["rope_theta"] = (theirs.get("rope_parameters") or {}).get("rope_theta")
    ours = {key: value for key, value in projector.table.defaults.items() if isinstance(value, int | float)}
    # Qwen 2.5 VL takes images of any size.
    assert {key: theirs[key] for key in ours if key in theirs} == {key: ours[key] for key in ours if key in theirs}
    assert set(ours) - set(theirs) <= {"image_size"}


# A field that is missing, or makes nothing.


@pytest.mark.parametrize("name", ["gemma3-vision", "llama4-vision", "mistral3", "qwen2.5vl", "qwen3vl"])
def test_a_missing_size_of_a_tower_is_transformers_default(name: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    for value in ({}, {"intermediate_size": None}):
        vision = {k: v for k, v in TINY[name].config["vision_config"].items() if k != "intermediate_size"} | value
        change_json(run / "config.json", vision_config=vision)
        expected = "intermediate_size is 5632" if name == "llama4-vision" else r"config\.json makes it \[(\d+, )?\d{4}"
        with pytest.raises((PlanError, RunError), match=expected):
            eyed(run)


MISSING = (
    ("cohere2", "intermediate_size", r"intermediate_size is missing; .*mlp\.gate_proj\.weight is measured by it"),
    ("llama4", "intermediate_size_mlp", r"gate_proj\.weight is \[.*\], config\.json makes it \[16384, 64\]"),
    ("mixtral", "intermediate_size", r"moe_intermediate_size or intermediate_size is missing; .*experts\.0\."),
)


@pytest.mark.parametrize(("name", "field", "message"), MISSING)
def test_a_missing_size_is_named_with_what_it_measures(name: str, field: str, message: str, tmp_path: Path) -> None:
    run = make("llama4-128" if name == "llama4" else name, tmp_path / "run")
    change_json(run / "config.json", **{field: None})
    with pytest.raises((PlanError, RunError), match=message):
        planned(run, "f32")
    eyes = make("mistral3", tmp_path / "eyes")
    vision = {k: v for k, v in TINY["mistral3"].config["vision_config"].items() if k != "patch_size"}
    change_json(eyes / "config.json", vision_config=vision)
    with pytest.raises((PlanError, RunError), match="patch_size"):
        eyed(eyes)


def test_a_side_of_0_is_refused_by_name(tmp_path: Path) -> None:
    run = make("deepseek2", tmp_path / "run")
    stored = load_file(run / "model.safetensors")
    heads, rope = 4, TINY["deepseek2"].config["qk_rope_head_dim"]
    change_json(run / "config.json", qk_nope_head_dim=0)
    value = TINY["deepseek2"].config["v_head_dim"]
    cut = {key: one[: heads * rope] for key, one in stored.items() if key.endswith("q_proj.weight")}
    cut |= {key: one[: heads * value] for key, one in stored.items() if key.endswith("kv_b_proj.weight")}
    save_file({key: cut.get(key, one).contiguous() for key, one in stored.items()}, run / "model.safetensors")
    with pytest.raises(PlanError, match=r"kv_b_proj\.weight makes blk\.0\.attn_k_b\.weight .* no side of 0"):
        planned(run, "f32")


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("llama", "lm_head.weight", r"lm_head\.weight is \[\], expected \(rows, columns\)"),
        ("llama", "model.embed_tokens.weight", r"embed_tokens\.weight is \[\], expected \(rows, columns\)"),
        ("llama", "model.norm.weight", r"model\.norm\.weight is \[\]: it has no rows"),
        ("gptoss", "model.layers.0.mlp.experts.gate_up_proj_bias", r"gate_up_proj_bias is \[\d+\]: it has no columns"),
    ],
)
def test_ranks_that_nothing_has_are_refused_by_name(name: str, weight: str, message: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run")
    stored = load_file(run / "model.safetensors")
    other = stored[weight].reshape(-1) if name == "gptoss" else torch.tensor(1.0)
    save_file(stored | {weight: other}, run / "model.safetensors")
    with pytest.raises((PlanError, SourceError), match=message):
        planned(run, "f32")


# Shards.

FIRST, LAST = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("named", [FIRST, LAST])
def test_a_tensor_in_two_shards_is_refused_whichever_the_index_names(named: str, tmp_path: Path) -> None:
    run = make("llama", tmp_path, shards=2)
    one, other = load_file(run / FIRST), load_file(run / LAST)
    name = min(one)
    save_file(other | {name: one[name] + 1}, run / LAST)
    index = run / "model.safetensors.index.json"
    index.write_text(re.sub(rf'("{re.escape(name)}": )"[^"]*"', rf'\1"{named}"', index.read_text()))
    with pytest.raises(SourceError, match=rf"{LAST}: {name} is stored in {FIRST} too"):
        open_model(run)


def test_an_index_may_say_that_its_shards_are_here(tmp_path: Path) -> None:
    run = make("llama", tmp_path, shards=2)
    plain = open_model(run).tensors
    index = run / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-0', '"./model-0'))
    assert open_model(run).tensors == plain
