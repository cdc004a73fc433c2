"""Mistral's own format: params.json and consolidated*.safetensors, against the same model as Hugging Face stores it."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import quiet
from exported import COMMAND, change_json, metadata, planned, tensors, written
from f32_logits import f32_logits
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tiny import TINY, make

from exporter.errors import GgufxError, RunError
from exporter.run import open_run
from exporter.tokenizer import find_tokenizer_files

NAMES = (
    (r"^model\.embed_tokens\.", "tok_embeddings."),
    (r"^lm_head\.", "output."),
    (r"^model\.", ""),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.(.)_proj\.", r".attention.w\1."),
    (r"\.mlp\.gate_proj\.", ".feed_forward.w1."),
    (r"\.mlp\.down_proj\.", ".feed_forward.w2."),
    (r"\.mlp\.up_proj\.", ".feed_forward.w3."),
)
PARAMS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "sliding_window": "sliding_window",
    "max_position_embeddings": "max_position_embeddings",
}
ADAPTER = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}


def in_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head from halves to pairs: Mistral's own order."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def native(name: str, folder: Path, *, shards: int = 1) -> Path:
    """A tiny model in Mistral's own format, with the tokenizer's files of Hugging Face's."""
    run, config = make(name, folder), dict(TINY[name].config)
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    stored: dict[str, torch.Tensor] = {}
    for key, weight in load_file(run / "model.safetensors").items():
        named, projection = key, re.search(r"\.([qk])_proj\.", key)
        for pattern, replacement in NAMES:
            named = re.sub(pattern, replacement, named)
        stored[named] = in_pairs(weight, heads[projection[1]]) if projection else weight
    for k in range(shards):
        part = dict([*stored.items()][k::shards])
        file = "consolidated.safetensors" if shards == 1 else f"consolidated-{k + 1:05}-of-{shards:05}.safetensors"
        save_file(part, run / file)
    (run / "params.json").write_text(json.dumps(params(config)), encoding="utf-8")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (run / file).unlink()
    return run


def params(config: Mapping[str, object]) -> dict[str, object]:
    """A model's params.json."""
    said = {key: config[theirs] for key, theirs in PARAMS.items() if config.get(theirs) is not None}
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return said | {"rope_theta": config["rope_theta"], "model_type": "transformer", "moe": None}
    length = rope["original_max_position_embeddings"]
    yarn = {"factor": rope["factor"], "beta": rope["beta_fast"], "alpha": rope["beta_slow"], "apply_scale": False}
    scaling = {"original_max_position_embeddings": length, "beta": rope["llama_4_scaling_beta"]}
    yarn |= {"original_max_position_embeddings": length}
    return said | {"rope_theta": rope["rope_theta"], "yarn": yarn, "llama_4_scaling": scaling}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ["mistral", "ministral3"])
def test_the_file_is_that_of_hugging_faces_format(name: str, shards: int, tmp_path: Path) -> None:
    first, second = make(name, tmp_path / "hf" / "run"), native(name, tmp_path / "own" / "run", shards=shards)
    files = [written(run, run.parent)[1]["f32"] for run in (first, second)]
    assert tensors(files[0]) == tensors(files[1])
    one, other = (
        {key: value for key, value in metadata(GGUFReader(file)).items() if not key.startswith("general.")}
        for file in files
    )
    assert one == other


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", ["mistral", "ministral3"])
def test_it_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    import transformers  # noqa: PLC0415  (seconds to import)

    original, run = make(name, tmp_path / "hf"), native(name, tmp_path / "own" / "run")
    ids = np.random.default_rng(0).integers(3, 300, 40).astype(np.int32)
    kind = getattr(transformers, TINY[name].architecture)
    with quiet(), torch.no_grad():
        model = kind.from_pretrained(original, dtype=torch.float32, attn_implementation="eager").eval()
        truth = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
    found = f32_logits(written(run, run.parent)[1]["f32"], ids)
    assert np.abs(found - truth).max() < 2e-5 * truth.std()


def test_of_both_formats_in_a_folder_hugging_faces_is_read(tmp_path: Path) -> None:
    run, own = make("mistral", tmp_path / "run"), native("mistral", tmp_path / "own")
    alone = written(run, tmp_path / "alone")[1]["f32"].read_bytes()
    weights = load_file(own / "consolidated.safetensors")
    save_file({key: weight * 0 for key, weight in weights.items()}, run / "consolidated.safetensors")
    shutil.copyfile(own / "params.json", run / "params.json")
    (run / "consolidated.safetensors.index.json").write_text("{}", encoding="utf-8")
    plan, files = written(run, tmp_path / "both")
    assert files["f32"].read_bytes() == alone
    assert [note for note in open_run(run).notes if "Mistral's own format, is not read" in note]
    assert plan.arch == "llama"
    (run / "model.safetensors").unlink()  # config.json stays, and says nothing of consolidated.safetensors
    assert open_run(run).family.name == "mistral_native"


def test_the_vision_tower_is_left_out(tmp_path: Path) -> None:
    run = native("mistral", tmp_path / "run")
    weights = load_file(run / "consolidated.safetensors")
    added = ("vision_encoder.ln_pre.weight", "vision_language_adapter.w_in.weight", "patch_merger.merging_layer.weight")
    save_file(weights | {name: torch.zeros(2, 2) for name in added}, run / "consolidated.safetensors")
    change_json(run / "params.json", vision_encoder={"hidden_size": 2, "image_token_id": 10})
    assert set(planned(run, "f32").left_out) == {"vision tower", "vision projector"}
    with pytest.raises(RunError, match="Leave --mmproj out"):
        planned(run, "f32", mmproj="f16")


def test_the_head_may_be_the_embedding(tmp_path: Path) -> None:
    run = native("mistral", tmp_path / "run")
    weights = load_file(run / "consolidated.safetensors")
    save_file({key: part for key, part in weights.items() if key != "output.weight"}, run / "consolidated.safetensors")
    change_json(run / "params.json", tied_embeddings=True)
    assert "output.weight" not in [job.tensor for job in planned(run, "f32").jobs]
    change_json(run / "params.json", tied_embeddings=False)
    with pytest.raises(GgufxError, match="holds no lm_head.weight"):
        planned(run, "f32")


def test_what_params_json_does_not_say(tmp_path: Path) -> None:
    run = native("mistral", tmp_path / "run")
    change_json(run / "params.json", max_position_embeddings=None, rope_theta=None, sliding_window=64)
    opened = open_run(run)
    assert (opened.config["max_position_embeddings"], opened.config["rope_theta"]) == (32768, 10000.0)
    assert [warning for warning in opened.warnings if "does not say how long a context" in warning]
    assert [warning for warning in opened.warnings if "last 64" in warning]
    change_json(run / "params.json", max_seq_len=4096)
    opened = open_run(run)
    assert opened.config["max_position_embeddings"] == 4096
    assert not [warning for warning in opened.warnings if "how long a context" in warning]


REFUSED: Mapping[str, tuple[str, Mapping[str, object], str]] = {
    "experts": ("mistral", {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}, "moe is .*: experts, which is not"),
    "quantized": ("mistral", {"quantization": {"qformat_weight": "fp8_e4m3"}}, "quantized weights, which is not read"),
    "latent attention": ("mistral", {"q_lora_rank": 8}, "q_lora_rank is 8: a field that is not known here"),
    "another graph": ("mistral", {"model_type": "mamba"}, "model_type is 'mamba'"),
    "no size": ("mistral", {"dim": None}, "lacks dim"),
    "no theta": ("mistral", {"rope_theta": None, "sliding_window": None}, "lacks rope_theta"),
    "windows in turn": ("mistral", {"sliding_window": [64, None]}, "sliding_window is"),
    "another activation": ("mistral", {"activation": "gelu"}, "hidden_act is 'gelu'"),
    "scaled from elsewhere": (
        "ministral3",
        {"llama_4_scaling": {"original_max_position_embeddings": 8, "beta": 0.1}},
        "llama.cpp has one number for both",
    ),
    "YaRN of another form": ("ministral3", {"yarn": {"factor": 2.0}}, "yarn is .*, expected an object of"),
    "Llama's YaRN unscaled": ("ministral3", {"llama_4_scaling": None}, "rope_mscale is 1.0; llama.cpp computes llama only with none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused(case: str, tmp_path: Path) -> None:
    name, changes, message = REFUSED[case]
    run = native(name, tmp_path / "run")
    change_json(run / "params.json", **changes)
    with pytest.raises(GgufxError, match=message):
        planned(run, "f32")


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    run = native("mistral", tmp_path / "run")
    weights = load_file(run / "consolidated.safetensors")
    save_file(weights | {"layers.0.attention.wq.lora_A.weight": torch.zeros(2, 2)}, run / "consolidated.safetensors")
    with pytest.raises(GgufxError, match=r"wq\.lora_A\.weight .* has no place"):
        planned(run, "f32")


def test_no_adapter_is_laid_over_it_and_no_checkpoint_made(tmp_path: Path) -> None:
    own, run = native("mistral", tmp_path / "own"), tmp_path / "run"
    run.mkdir()
    (run / "adapter_config.json").write_text(json.dumps(ADAPTER | {"base_model_name_or_path": str(own)}), "utf-8")
    save_file({"x": torch.zeros(1)}, run / "adapter_model.safetensors")
    with pytest.raises(RunError, match="the base in Mistral's own format"):
        open_run(run)
    with pytest.raises(RunError, match="the base in Mistral's own format"):
        open_run(own, adapters=[str(run)])
    command = [*COMMAND, "merge", str(own), "--out", str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Mistral's own format, of which no Hugging Face checkpoint" in done.stderr) == (2, True)


def test_a_whole_export(tmp_path: Path) -> None:
    run, out = native("mistral", tmp_path / "run"), tmp_path / "out"
    command = [*COMMAND, "export", str(run), "--quant", "f32,q8_0", "--no-verify", "--prove", "--json"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["run"]["family"] == "mistral_native"
    found = {check["name"]: check["status"] for check in report["checks"]}
    assert (found["load"], found["tokenizer"], found["logits"]) == ("pass", "pass", "skipped")


def test_numbered_tokenizers_of_mistrals(tmp_path: Path) -> None:
    for name in ("tokenizer.model.v1", "tokenizer.model.v3"):
        (tmp_path / name).touch()
    assert find_tokenizer_files(tmp_path) == {"tokenizer.model": tmp_path / "tokenizer.model.v3"}
    (tmp_path / "tekken.json").touch()
    assert find_tokenizer_files(tmp_path) == {"tekken.json": tmp_path / "tekken.json"}
