"""Folders of a run's states: which is taken, and weights left in pieces, refused with the command that joins them."""

import shutil
from pathlib import Path

import pytest
from adapters import write_adapter
from tiny import make
from trainers import TORCHTUNE, inspected, write

from exporter.run import open_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("bases") / "Tiny-Llama")


# Folders of states.


def test_the_last_epoch_of_torchtune_is_taken(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "torchtune_config.yaml", TORCHTUNE)
    for epoch in (2, 10):
        write_adapter(tmp_path / f"epoch_{epoch}", base, {})
    run = open_run(tmp_path)
    assert (run.folder.name, run.trainer) == ("epoch_10", "torchtune")
    assert run.notes == ("took epoch_10, the last checkpoint",)


def verl(root: Path, step: int) -> Path:
    """An actor's folder as verl's FSDP workers leave it: shards, and a folder of the model's small files."""
    actor = root / f"global_step_{step}" / "actor"
    write(actor / "fsdp_config.json", {"FSDP_version": 1, "world_size": 2})
    for rank in range(2):
        write(actor / f"model_world_size_2_rank_{rank}.pt", "shard")
    write(actor / "huggingface" / "config.json", {"architectures": ["LlamaForCausalLM"]})
    write(root / "latest_checkpointed_iteration.txt", str(step))
    return actor


def test_verls_adapter_or_model_is_taken_where_it_wrote_one(base: Path, tmp_path: Path) -> None:
    write_adapter(verl(tmp_path, 100) / "lora_adapter", base, {})
    shutil.copytree(base, verl(tmp_path, 20) / "huggingface", dirs_exist_ok=True)
    run = open_run(tmp_path)
    assert (run.trainer, run.kind, run.folder) == ("verl", "lora", tmp_path / "global_step_100/actor/lora_adapter")
    assert run.notes == ("took global_step_100, the last checkpoint", "took actor/lora_adapter, where verl keeps it")
    assert run.trainer_from == "global_step_100/actor/model_world_size_2_rank_0.pt"
    full = open_run(tmp_path / "global_step_20")
    assert (full.trainer, full.kind, full.folder.name) == ("verl", "full", "huggingface")


JOIN_ZERO = (
    "cd {0} && python zero_to_fp32.py . recovered --safe_serialization`. Then copy config.json and the tokenizer"
)
# Files of a folder without whole weights -> what the message must say; {0} is the folder that is at fault.
SHARDS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "zero": (
        ("checkpoint-9/global_step9/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "checkpoint-9/latest"),
        "checkpoint-9",
        ("DeepSpeed's shards (bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt)", JOIN_ZERO),
    ),
    "zero inside": (("global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt", "config.json"), "", (JOIN_ZERO,)),
    "zero adapter": (
        ("global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt", "adapter_config.json"),
        "",
        ("zero_to_fp32.py . recovered --safe_serialization --exclude_frozen_parameters`", "set_peft_model_state_dict"),
    ),
    "fsdp": (
        ("checkpoint-9/pytorch_model_fsdp_0/__0_0.distcp", "checkpoint-9/pytorch_model_fsdp_0/.metadata"),
        "checkpoint-9",
        ("accelerate merge-weights {0}/pytorch_model_fsdp_0 {0}/recovered`",),
    ),
    "fsdp inside": (("__0_0.distcp", ".metadata"), "", ("accelerate merge-weights {0} {0}/recovered`",)),
    "fsdp whole": (
        ("pytorch_model_fsdp.bin", "config.json"),
        "",
        ("cp {0}/pytorch_model_fsdp.bin {0}/recovered/pytorch_model.bin`",),
    ),
    "fsdp local": (("pytorch_model_fsdp_rank0.bin", "config.json"), "", ("save it with FULL_STATE_DICT",)),
    "verl": (
        ("global_step_5/actor/model_world_size_2_rank_0.pt", "global_step_5/actor/huggingface/config.json"),
        "global_step_5/actor",
        (
            "python -m verl.model_merger merge --backend fsdp --local_dir {0} --target_dir {0}/recovered`",
            "trained with LoRA is not merged by that: then give the lora_adapter folder",
        ),
    ),
    "verl megatron": (
        ("global_step_5/actor/dist_ckpt/__0_0.distcp", "global_step_5/actor/huggingface/config.json"),
        "global_step_5/actor",
        ("merge --backend megatron --local_dir {0} ",),
    ),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_are_refused_with_the_command_that_joins_them(name: str, tmp_path: Path) -> None:
    files, folder, words = SHARDS[name]
    for file in files:
        write(tmp_path / file, {"peft_type": "LORA"} if file == "adapter_config.json" else {"a": 1})
    status, out, message = inspected(tmp_path)
    assert (status, out) == (2, "")
    for word in words:
        assert word.format(tmp_path / folder) in message


def test_an_adapter_of_mlx_is_refused_by_name(tmp_path: Path) -> None:
    fields = {"rank": 8, "scale": 20.0, "dropout": 0.0}
    write(
        tmp_path / "adapter_config.json",
        {"model": "mlx-community/Tiny-4bit", "data": "data", "fine_tune_type": "lora", "lora_parameters": fields},
    )
    (tmp_path / "adapters.safetensors").touch()
    status, out, message = inspected(tmp_path)
    assert (status, out) == (2, "")
    command = f"mlx_lm.fuse --model mlx-community/Tiny-4bit --adapter-path {tmp_path} --save-path {tmp_path / 'fused'}"
    assert "is an adapter of MLX" in message
    assert f"`{command} --dequantize`" in message
