"""A merged checkpoint equals what PEFT merges, rounded, bit for bit, in the layout that the base has."""

import json
from pathlib import Path

import pytest
import torch
from adapters import adapted, finished, load, one_thread, quiet, source_of, train, write_adapter
from checkpoints import of_peft, opened, same, state, write
from exported import change_json
from peft_cases import IDS
from quantized_files import whole
from safetensors.torch import load_file, save_file
from tiny import make

from converters.spec import EMBEDDING, HEAD
from exporter.checkpoint import with_changed_tower, write_checkpoint
from exporter.errors import MergeError, RunError
from exporter.merge_check import check_merge
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["one_thread"]
NAMES = ("llama", "llama-bias", "qwen2", "gemma3", "gemma3-vision", "gemma3-vision-v5")
MIXED = ("mixtral", "mixtral-fused", "mixtral-experts", "qwen3moe-fused")
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LINEAR = ["q_proj", "o_proj", "gate_proj", "down_proj"]
SEEING = [
    ("gemma3-vision", "q_proj"), ("gemma3-vision-v5", "fc1"), ("llama4-vision", "fc1"), ("mistral3", "q_proj"),
    ("qwen2.5vl", "qkv"), ("qwen2.5vl-yarn", "gate_proj"), ("qwen3vl", "linear_fc1"), ("qwen3vlmoe", "qkv"),
]  # fmt: skip
TEXT_ONLY = {"exclude_modules": ".*vision.*"}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in (*NAMES, *MIXED)}


@pytest.mark.parametrize("name", NAMES)
def test_a_merged_folder_is_what_peft_merges(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train(load(bases[name]), run, target_modules=LINEAR, use_rslora=True, **TEXT_ONLY)
    made = write(run, bases[name], out, shard_bytes=200_000)
    assert same(state(out), of_peft(bases[name], run))
    assert made["compared"] > len(LINEAR)
    shards = sorted(file.name for file in out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert sorted(set(index["weight_map"].values())) == shards
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in shards for t in load_file(out / file).values())
    assert all(sum(t.nbytes for t in load_file(out / file).values()) <= 200_000 for file in shards)
    tied = json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    assert tied == (HEAD not in index["weight_map"]) == (name not in {"llama", "llama-bias"})
    assert {file.name for file in out.iterdir()} == set(made["files"])
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(made["files"])
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / file).read_bytes() == (bases[name] / file).read_bytes()


@pytest.mark.parametrize("name", MIXED)
def test_experts_lie_as_in_the_base(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    trained = bases["mixtral" if name == "mixtral-experts" else name]  # whose names transformers does not read
    train(load(trained), run, target_modules=["o_proj"], target_parameters=EXPERTS, rank_pattern={"experts.down": 2})
    write(run, bases[name], out)
    before, after = (load_file(folder / "model.safetensors") for folder in (bases[name], out))
    assert {key: tensor.shape for key, tensor in before.items()} == {key: tensor.shape for key, tensor in after.items()}
    assert all(
        (".experts." in key or "o_proj" in key) != tensor.bfloat16().equal(after[key]) for key, tensor in before.items()
    )
    opened = open_source(open_run(out))
    if name == "mixtral-experts":
        write(run, trained, tmp_path / "other")
        expected = finished(open_source(open_run(tmp_path / "other")))
    else:
        assert same(state(out), of_peft(trained, run))
        expected = {key: tensor.bfloat16().float() for key, tensor in finished(source_of(run, bases[name])).items()}
    assert same(finished(opened), expected)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_every_type_is_rounded_to_the_nearest(dtype: str, bases: dict[str, Path], tmp_path: Path) -> None:
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    train(load(bases["llama"]), tmp_path / "run", target_modules=LINEAR)
    write(tmp_path / "run", bases["llama"], tmp_path / "out", dtype=dtype)
    assert same(state(tmp_path / "out", kind), of_peft(bases["llama"], tmp_path / "run"))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {kind}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(kind).removeprefix("torch.")


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "gemma3-vision", "gemma3-vision-v5"])
def test_an_untied_head_is_written(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train(load(bases[name]), run, target_modules=["q_proj", "embed_tokens"], **TEXT_ONLY)
    write(run, bases[name], out)
    assert HEAD in load_file(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert same(state(out), of_peft(bases[name], run, untied=True))


def test_a_head_that_is_the_embedding_is_left_out(bases: dict[str, Path], tmp_path: Path) -> None:
    base = make("qwen2", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {HEAD: tensors[EMBEDDING].clone()}, base / "model.safetensors", {"format": "pt"})
    train(load(bases["qwen2"]), tmp_path / "run", target_modules=["q_proj"])
    write(tmp_path / "run", base, tmp_path / "out")
    assert HEAD not in load_file(tmp_path / "out" / "model.safetensors")
    assert same(state(tmp_path / "out"), of_peft(bases["qwen2"], tmp_path / "run"))


def test_a_resized_vocabulary_is_in_the_config(bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    rows = 409 + 64
    train(load(bases["llama"], rows=rows), run, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    write(run, bases["llama"], out)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
    assert same(state(out), of_peft(bases["llama"], run, rows=rows))


def test_a_part_that_is_left_out_is_copied_and_not_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    base = make("gemma3-vision", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    odd = {"vision_tower.vision_model.embeddings.position_ids": torch.arange(16)[None] + 2**40}
    odd["vision_tower.scale"] = torch.tensor(1.5)
    save_file(tensors | odd, base / "model.safetensors", {"format": "pt"})
    train(load(bases["gemma3-vision"]), tmp_path / "run", target_modules=["q_proj"], **TEXT_ONLY)
    (base / "preprocessor_config.json").write_text("{}")
    write(tmp_path / "run", base, tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    copied = {key: tensor for key, tensor in (tensors | odd).items() if not key.startswith("language_model.")}
    assert all(tensor.equal(after[key]) and tensor.dtype == after[key].dtype for key, tensor in copied.items())
    assert (tmp_path / "out" / "preprocessor_config.json").exists()


@pytest.mark.parametrize(("name", "trained"), SEEING)
def test_a_trained_vision_tower_is_merged(name: str, trained: str, tmp_path: Path) -> None:
    base, run, out = make(name, tmp_path / "base"), tmp_path / "run", tmp_path / "out"
    train(load(base), run, target_modules=[trained, "o_proj"])
    write(run, base, out)
    assert same(state(out), of_peft(base, run))
    found = with_changed_tower(*opened(run, base))
    assert found[1].changes.left_out == ()
    checked = check_merge(*found, lambda *_: None)
    assert checked["status"] == "pass"
    assert all(one["status"] == "pass" for one in checked["compared"])
    assert any(one["weight"].startswith("vis") for one in checked["compared"])


@pytest.mark.parametrize(
    ("name", "module"), [("gemma3n", "embed_vision.embedding_projection"), ("qwen2vl", "visual.blocks.0.mlp.fc1")]
)
def test_a_trained_tower_without_names_is_refused(name: str, module: str, tmp_path: Path) -> None:
    base = make(name, tmp_path / "base")
    odd = f"base_model.model.model.{module}.lora_"
    pair = {f"{odd}A.weight": torch.ones(4, 32), f"{odd}B.weight": torch.ones(64, 4)}
    run = write_adapter(tmp_path / "run", base, pair)
    with pytest.raises(MergeError, match=rf"{module}.* is of a part that is not merged"):
        write(run, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["llama", "mixtral-fused"])
def test_repeated_layers_are_layers_of_their_own(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train(load(bases[name]), run, target_modules=["q_proj", "o_proj"], layer_replication=[[0, 2], [1, 2], [0, 1]])
    made = write(run, bases[name], out, dtype="f32")
    layers = {key.split(".")[2] for key in load_file(out / "model.safetensors") if key.startswith("model.layers.")}
    assert layers == {"0", "1", "2", "3"}
    assert made["weights"] == len(open_source(open_run(out)).shapes())
    assert same(finished(open_source(open_run(out))), finished(source_of(run, bases[name])))
    # PEFT's merge adds what it has for a layer to all that share its weights; the live adapter is the truth.
    with quiet(), torch.no_grad():
        live = adapted(load(bases[name]), run)(IDS).logits
        found = load(out)(IDS).logits
    assert float((found - live).abs().max()) < 1e-4 * float(live.std())


@pytest.mark.parametrize("way", ["fp8", "gptq", "nf4"])
def test_a_quantized_base_is_written_plain(way: str, tmp_path: Path) -> None:
    base, expected = whole("llama", way, tmp_path / "base")
    run = write_adapter(tmp_path / "run", base, {})
    write(run, base, tmp_path / "out", dtype="f32")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert {name for name, tensor in stored.items() if not tensor.equal(expected[name])} == {changed}
    assert stored[changed].equal(expected[changed] + 4 * 0.5 * 0.25 * 2)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert state(tmp_path / "out", torch.float32).keys() == expected.keys()


def test_a_base_in_pytorch_files_is_written_in_safetensors(bases: dict[str, Path], tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    run = write_adapter(tmp_path / "run", base, {})
    write(run, base, tmp_path / "out")
    assert same(state(tmp_path / "out"), of_peft(bases["llama"], run))


def test_a_full_model_is_written_in_another_type(bases: dict[str, Path], tmp_path: Path) -> None:
    run = open_run(bases["llama"])
    write_checkpoint(run, open_source(run), tmp_path / "out", progress=lambda *_: None)
    assert same(state(tmp_path / "out"), load(bases["llama"]).state_dict())
    with pytest.raises(MergeError, match="holds no adapter, so there is no merge to check"):
        check_merge(run, open_source(run), lambda *_: None)


def test_kinds_of_layers_that_are_all_alike_are_repeated_too(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    change_json(base / "config.json", layer_types=["full_attention"] * 2)
    run = write_adapter(tmp_path / "run", base, {}, layer_replication=[[0, 2], [1, 2]])
    write(run, base, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_types"] == ["full_attention"] * 3
    change_json(base / "config.json", layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(RunError, match="this model's are of several kinds"):
        open_run(run, base=str(base))
