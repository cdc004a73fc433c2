"""Mistral's own format: params.json and consolidated*.safetensors, against the same model as Hugging Face stores it."""

import hashlib
import json
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
from native import native, with_tekken
from safetensors.torch import load_file, save_file
from tiny import TINY, make

from exporter.errors import GgufxError, RunError
from exporter.run import open_run
from exporter.tokenizer import find_tokenizer_files

GOLDEN = json.loads((Path(__file__).parent / "reference" / "mistral_native.json").read_text(encoding="utf-8"))
# The scores are all 0 and of no use beside merges; nothing is padded, nothing unknown to a byte-level tokenizer; no EOS
# is added unless a file says so.
ONLY_THEIRS = {f"tokenizer.ggml.{key}" for key in ("scores", "padding_token_id", "unknown_token_id", "add_eos_token")}
ADAPTER = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}


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


@pytest.mark.parametrize("name", GOLDEN)
def test_the_file_is_that_of_llamacpps_converter(name: str, tmp_path: Path) -> None:
    truth, run = GOLDEN[name], with_tekken(native(name, tmp_path / "run"))
    file = written(run, tmp_path / "out")[1]["f32"]
    assert {key: [kind, hashlib.sha256(data).hexdigest()] for key, kind, data in tensors(file)} == truth["tensors"]
    ours = {key: [*value] for key, value in metadata(GGUFReader(file)).items() if not key.startswith("general.")}
    assert set(truth["metadata"]) - set(ours) == ONLY_THEIRS
    assert ours == {key: value for key, value in truth["metadata"].items() if key not in ONLY_THEIRS}


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
    with pytest.raises(GgufxError, match=r"holds no lm_head\.weight"):
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
    "Llama's YaRN unscaled": (
        "ministral3",
        {"llama_4_scaling": None},
        "rope_mscale is 1.0; llama.cpp computes llama only with none",
    ),
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
