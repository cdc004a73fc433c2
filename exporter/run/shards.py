"""Weights that a trainer left in pieces, one for each process: which they are, and the command that joins them."""

from pathlib import Path
from shlex import quote

# What a folder holds -> how it is put together. The first that fits; more than one may be there.
SHARDS = (
    ("model_world_size_*_rank_*.pt", "verl"),
    ("dist_ckpt/*.distcp", "verl-megatron"),
    ("global_step*/*zero_pp_rank_*", "deepspeed"),
    ("*zero_pp_rank_*", "deepspeed"),
    ("pytorch_model_fsdp_*/*.distcp", "fsdp"),
    ("*.distcp", "fsdp"),
    ("pytorch_model_fsdp.bin", "fsdp-whole"),
    ("pytorch_model_fsdp_rank*.bin", "fsdp-local"),
)


def recovery(folder: Path) -> str | None:
    """What to do with a run's shards, with the command; None where a folder holds none that are known."""
    for place in (folder, folder / "actor"):
        for pattern, kind in SHARDS:
            found = next(iter(sorted(place.glob(pattern))), None) if place.is_dir() else None
            if found is not None:
                return _advice(kind, place, found)
    return None


def _advice(kind: str, folder: Path, found: Path) -> str:
    """The sentences for one kind of shards."""
    adapter = (folder / "adapter_config.json").exists()
    start = folder.parent if kind == "deepspeed" and folder.name.startswith("global_step") else folder
    whole = start / "recovered"
    here, into, place = quote(str(start)), quote(str(whole)), quote(str(found.parent))
    match kind:
        case "verl" | "verl-megatron":
            backend = "fsdp" if kind == "verl" else "megatron"
            return (
                f"It holds verl's shards ({found.name}); join them: `python -m verl.model_merger merge --backend "
                f"{backend} --local_dir {here} --target_dir {into}`, and give {whole}. What was trained with LoRA "
                "is not merged by that: then give the lora_adapter folder that it writes, with --base."
            )
        case "deepspeed":
            options = "--safe_serialization" + " --exclude_frozen_parameters" * adapter
            command = f"cd {here} && python zero_to_fp32.py . recovered {options}"
            return f"It holds DeepSpeed's shards ({found.name}); join them: `{command}`. {_after(whole, adapter)}"
        case "fsdp":
            command = f"accelerate merge-weights {place} {into}"
            return f"It holds FSDP's shards ({found.name}); join them: `{command}`. {_after(whole, adapter)}"
        case "fsdp-whole":
            command = f"mkdir {into} && cp {quote(str(found))} {into}/pytorch_model.bin"
            return (
                f"{found.name} holds FSDP's gathered weights, called otherwise: `{command}`. {_after(whole, adapter)}"
            )
        case _:
            return (
                f"{found.name} is a part of one process (FSDP's LOCAL_STATE_DICT), which no tool joins: load the "
                "checkpoint in the training script on as many processes, and save it with FULL_STATE_DICT."
            )


def _after(folder: Path, adapter: bool) -> str:  # noqa: FBT001  (two sentences, one choice)
    """What is to be done with the joined weights."""
    if adapter:
        return (
            f"Then load {folder} into the PEFT model (`set_peft_model_state_dict`), save that with `save_pretrained`, "
            "and give its folder."
        )
    return f"Then copy config.json and the tokenizer's files of the base into {folder}, and give that folder."
