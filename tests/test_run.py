"""What a run folder holds, which part of it is taken, and what is refused, with words that help."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapters import PAIR, source_of, write_adapter
from exported import written
from tiny import make

from converters import ALL
from exporter.errors import GgufxError, MergeError, RunError, SourceError, WeightError
from exporter.run import open_run

Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("bases") / "Tiny-Llama")


def _edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_an_adapter_a_full_run_and_a_checkpoint_are_told_apart(base: Path, tmp_path: Path) -> None:
    plain = open_run(base)
    assert (plain.kind, plain.base, plain.trainer, plain.adapters) == ("checkpoint", base, "unknown", ())
    full = shutil.copytree(base, tmp_path / "full")
    (full / "trainer_state.json").write_text("{}")
    assert open_run(full).kind == "full"
    lora = open_run(write_adapter(tmp_path / "run", base, {}))
    assert (lora.kind, lora.base, lora.base_name, lora.trainer) == ("lora", base, "Tiny-Llama", "peft")
    assert lora.family.name == "llama"


@pytest.mark.parametrize(
    ("file", "text", "trainer"),
    [
        ("trainer_log.jsonl", "{}", "llama-factory"),
        ("axolotl_config.yaml", "", "axolotl"),
        (
            "README.md",
            "This llama model was trained 2x faster with [Unsloth](https://github.com/unslothai/unsloth) and …",
            "unsloth",
        ),
        ("README.md", "It has been trained using [TRL](https://github.com/huggingface/trl).", "trl"),
        ("README.md", "A control of trolls.", "peft"),
    ],
)
def test_the_trainer_is_known_by_what_it_leaves(file: str, text: str, trainer: str, base: Path, tmp_path: Path) -> None:  # noqa: PLR0917
    (write_adapter(tmp_path, base, {}) / file).write_text(text)
    assert open_run(tmp_path).trainer == trainer


def test_a_base_is_found_beside_the_adapter(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "run" / "base")
    adapter = write_adapter(tmp_path / "run", None, {}, base_model_name_or_path="./base")
    assert open_run(adapter).base == tmp_path / "run" / "base"


def _checkpoints(folder: Path, base: Path, *steps: int) -> Path:
    for step in steps:
        state = write_adapter(folder / f"checkpoint-{step}", base, {}) / "trainer_state.json"
        state.write_text(json.dumps({"best_model_checkpoint": None}))
    return folder


def test_the_final_adapter_comes_before_its_checkpoints(base: Path, tmp_path: Path) -> None:
    run = open_run(write_adapter(_checkpoints(tmp_path, base, 10, 20), base, {}))
    assert (run.folder, run.notes) == (tmp_path, ())


def test_the_last_checkpoint_is_taken_by_its_number(base: Path, tmp_path: Path) -> None:
    run = open_run(_checkpoints(tmp_path, base, 90, 100, 9))
    assert run.folder.name == "checkpoint-100"
    assert run.notes == ("took checkpoint-100, the last checkpoint",)
    assert run.path == tmp_path


@pytest.mark.parametrize("place", ["trainer_state.json", "checkpoint-100/trainer_state.json"])
@pytest.mark.parametrize("best", ["/elsewhere/run/checkpoint-90", r"D:\run\checkpoint-90", "out/checkpoint-90/"])
def test_the_best_checkpoint_comes_before_the_last(place: str, best: str, base: Path, tmp_path: Path) -> None:
    (_checkpoints(tmp_path, base, 90, 100) / place).write_text(json.dumps({"best_model_checkpoint": best}))
    run = open_run(tmp_path)
    assert run.folder.name == "checkpoint-90"
    assert "best checkpoint by trainer_state.json" in run.notes[0]


def test_a_best_checkpoint_that_is_gone_is_refused(base: Path, tmp_path: Path) -> None:
    state = _checkpoints(tmp_path, base, 90, 100) / "trainer_state.json"
    state.write_text(json.dumps({"best_model_checkpoint": "out/checkpoint-80"}))
    with pytest.raises(RunError, match=r"names checkpoint-80 .*, which is not there.*checkpoint-100"):
        open_run(tmp_path)


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_checkpoint_that_is_incomplete_is_refused(missing: str, base: Path, tmp_path: Path) -> None:
    (_checkpoints(tmp_path, base, 10) / "checkpoint-10" / missing).unlink()
    with pytest.raises(RunError, match=r"checkpoint-10.*adapter_config\.json"):
        open_run(tmp_path)


def test_folders_that_hold_no_run_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no such folder.*Give the run, a folder or a Hub id"):
        open_run(tmp_path / "nothing")
    with pytest.raises(RunError, match="is a file, expected a folder"):
        open_run(base / "config.json")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"adapter_config.json.*config.json.*checkpoint-N.*Found: notes.txt"):
        open_run(tmp_path)
    shutil.copy(base / "config.json", tmp_path)
    with pytest.raises(RunError, match=r"config.json with weights.*Found: config.json, notes.txt"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"is a full model, not an adapter, so --base .* has no meaning"):
        open_run(base, base=str(base))


def test_an_adapter_without_weights_is_refused(base: Path, tmp_path: Path) -> None:
    (write_adapter(tmp_path, base, {}) / "adapter_model.safetensors").unlink()
    with pytest.raises(RunError, match=r"neither of adapter_model.safetensors, adapter_model.bin"):
        open_run(tmp_path)


def test_an_adapter_beside_a_model_needs_a_word(base: Path, tmp_path: Path) -> None:
    write_adapter(shutil.copytree(base, tmp_path / "both"), base, {})
    with pytest.raises(RunError, match=r"an adapter .* and a whole model.*unclear.*--base DIR"):
        open_run(tmp_path / "both")
    assert open_run(tmp_path / "both", base=str(base)).kind == "lora"


def test_bases_that_are_none_are_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = write_adapter(tmp_path / "run", None, {})
    with pytest.raises(RunError, match=r"names no base model. Give it with --base"):
        open_run(adapter)
    with pytest.raises(RunError, match=r"gone: there is no such folder. adapter_config.json names it"):
        open_run(write_adapter(tmp_path / "gone", tmp_path / "base" / "gone", {}))
    chained = write_adapter(tmp_path / "chained", write_adapter(tmp_path / "first", base, {}), {})
    with pytest.raises(RunError, match=r"first: the base model's folder holds an adapter.*--base"):
        open_run(chained)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty: the base model's folder holds no config.json with weights"):
        open_run(adapter, base=str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match=r"nobody/no-such-model: the base is no folder here.*--base DIR"):
        open_run(write_adapter(tmp_path / "hub", None, {}, base_model_name_or_path="nobody/no-such-model"))


def test_an_unknown_architecture_names_those_near_it(base: Path, tmp_path: Path) -> None:
    run = shutil.copytree(base, tmp_path / "run")
    _edit(run / "config.json", architectures=["Qwen2MoEForCausalLM"])
    with pytest.raises(
        RunError, match=r"Qwen2MoEForCausalLM is not supported.*families.*spelt alike: Qwen2MoeForCausalLM"
    ):
        open_run(run)
    _edit(run / "config.json", architectures=["BloomModel"])
    with pytest.raises(
        RunError, match=r"BloomModel is not supported. llama.cpp knows it: docs/add-a-family.md .*lists all"
    ):
        open_run(run)
    assert not any("BloomModel" in family.architectures for family in ALL)


# Fields of adapter_config.json that mean more than LoRA -> what the message must say.
FIELDS = (
    ({"peft_type": None}, "peft_type is None, which is no method"),
    ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is"),
    ({"use_qalora": True}, "use_qalora is true"),
    ({"init_lora_weights": "pissa"}, '"pissa", which changes the base weights.*path_initial_model'),
    ({"init_lora_weights": "pissa_niter_16"}, '"pissa_niter_16", which changes the base'),
    ({"init_lora_weights": "olora"}, '"olora", which changes the base'),
    ({"init_lora_weights": "loftq"}, '"loftq", which changes the base'),
    ({"some_later_field": {"of": "PEFT"}}, 'some_later_field is {"of": "PEFT"}'),
    ({"r": "4"}, 'r is "4", expected a whole number above 0'),
    ({"r": 0}, "r is 0, expected a whole number above 0"),
    ({"lora_alpha": None}, "lora_alpha is null, expected a number"),
    ({"rank_pattern": ["q_proj"]}, "rank_pattern is .*expected an object"),
    ({"r": 8}, "q_proj has rank 4 by its tensors, 8 by adapter_config.json"),
    ({"rank_pattern": {"q_proj": 2}}, "q_proj has rank 4 by its tensors, 2 by adapter_config.json"),
)


@pytest.mark.parametrize(("fields", "message"), FIELDS)
def test_an_adapter_that_is_no_plain_lora_is_refused(
    fields: dict[str, object], message: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(MergeError, match=message):
        source_of(write_adapter(tmp_path, base, {}, **fields))


def test_fields_without_a_value_and_plain_starts_are_taken(base: Path, tmp_path: Path) -> None:
    nothing: dict[str, object] = {
        "some_later_field": None,
        "use_dora": False,
        "layer_replication": [],
        "lora_bias": False,
    }
    for start in (True, False, "gaussian", "orthogonal", "eva", None):
        run = write_adapter(tmp_path, base, {}, init_lora_weights=start, lora_dropout=0.1, **nothing)
        assert set(source_of(run).changes.by_weight) == {"model.layers.0.self_attn.q_proj.weight"}


COPIES = ("", ".modules_to_save")
ONES = torch.ones(1)
# Tensors over, or instead of, the plain pair -> what the message must say.
TENSORS = (
    ({f"{Q}.lora_magnitude_vector": torch.ones(64)}, "does not say use_dora, and .*q_proj.*has a lora_magnitude"),
    ({f"{Q}.lora_B.bias": torch.ones(64)}, "q_proj.lora_B.bias, and adapter_config.json does not say lora_bias"),
    ({f"{Q}.lora_A.default.weight": torch.ones(4, 64)}, "lora_A.default.weight is of a kind that is not merged"),
    ({f"{Q}.hada_w1_a": torch.ones(4, 64)}, "hada_w1_a is of a kind that is not merged"),
    ({f"{Q}.bias": torch.ones(64)}, "q_proj.bias is of a kind that is not merged"),
    ({"model.layers.0.self_attn.q_proj.lora_A.weight": ONES}, "does not begin with 'base_model.model.'"),
    ({"base_model.model.lm_head.lora_magnitude_vector": torch.ones(409)}, "lora_magnitude_vector of one weight"),
    ({f"{Q}.lora_B.weight": None}, "q_proj.lora_A.weight of one weight: one has no counterpart"),
    ({f"{Q}.lora_A.weight": None}, "q_proj.lora_B.weight of one weight: one has no counterpart"),
    ({f"{Q}.lora_embedding_A": torch.ones(4, 64)}, "one has no counterpart"),
    ({f"{Q}.lora_embedding_A": torch.ones(4, 64), f"{Q}.lora_embedding_B": torch.ones(64, 4)}, "no counterpart"),
    ({f"{Q}.lora_A.weight": torch.ones(0)}, "not gathered.*ZeRO-3 or FSDP.*zero_to_fp32.py"),
    ({f"{Q}.lora_B.weight": torch.ones(0, 4)}, "not gathered.*ZeRO-3 or FSDP.*zero_to_fp32.py"),
    ({f"{Q}.lora_A.weight": torch.ones(4, 96)}, "as 64 x 96, the base model has 64 x 64 there.*give that one"),
    ({f"{Q}.lora_B.weight": torch.ones(96, 4)}, "as 96 x 64, the base model has 64 x 64 there.*give that one"),
    ({f"{Q}.lora_B.weight": torch.zeros(64, 4)}, "changes nothing.*lora_B are zero.*ZeRO-3"),
    ({f"{Q}.lora_B.weight": torch.ones(64, 4).to(torch.int8)}, "lora_B.weight is stored as I8; only F32, F16, BF16"),
    (
        {name.replace("layers.0", "layers.9"): tensor + 0 for name, tensor in PAIR.items()},
        "lora_A and lora_B of model.layers.9.self_attn.q_proj, but target_modules",
    ),
    ({"base_model.model.lm_head.weight": torch.ones(409, 96)}, "lm_head.weight as 409 x 96, the base model has 409 x"),
    (
        {f"base_model.model.lm_head.{end}": torch.ones(409, 64) for end in ("weight", "base_layer.weight")},
        "lm_head.weight has two tensors for one place",
    ),
    (
        {f"base_model.model.lm_head{end}.weight": 0.5 + torch.zeros(409, 64) + len(end) for end in COPIES},
        "are two different tensors for lm_head.weight",
    ),
    ({"base_model.model.lm_head.original_module.weight": torch.ones(409, 64)}, "what was there before training"),
)


@pytest.mark.parametrize(("tensors", "message"), TENSORS)
def test_an_adapters_tensor_that_does_not_fit_is_refused(
    tensors: dict[str, torch.Tensor | None], message: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises((MergeError, SourceError), match=message):
        source_of(write_adapter(tmp_path, base, tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_an_adapter_that_is_not_finite_is_refused(value: float, base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "run", base, {f"{Q}.lora_B.weight": torch.full((64, 4), value)})
    # The adapter's own tensor, or, where each number is finite and their product is not, the weight that it makes.
    own = r"adapter_model.safetensors: .*lora_B.weight holds NaN or infinity, and model.*q_proj.weight is made of it"
    with pytest.raises(WeightError, match=rf"{own}|blk.0.attn_q.weight: holds NaN or infinity .*q_proj.weight"):
        written(run, tmp_path / "out")


def test_an_adapter_of_the_vision_tower_alone_changes_nothing(tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "run", make("gemma3-vision", tmp_path / "base"), dict.fromkeys(PAIR) | {
        "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32),
        "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(32, 4),
    })  # fmt: skip
    with pytest.raises(MergeError, match=r"changes nothing of the exported model: its 2 tensors.*vision_tower"):
        source_of(run)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "\x00"])
@pytest.mark.parametrize("file", ["adapter_config.json", "trainer_state.json"])
def test_broken_json_is_refused(file: str, text: str, base: Path, tmp_path: Path) -> None:
    run = _checkpoints(tmp_path, base, 5)
    (run / "checkpoint-5" / file).write_text(text)
    with pytest.raises(GgufxError, match=rf"checkpoint-5.{file}.*(cannot be read as JSON|expected a JSON object)"):
        open_run(run)
