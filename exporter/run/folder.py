"""Which folder of a run holds the weights that are taken, and what a folder without whole weights holds instead."""

import os
import re
from pathlib import Path

from exporter.config import PARAMS, read_json
from exporter.errors import RunError
from exporter.run.shards import recovery

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
STEPS = (r"checkpoint-\d+", r"epoch_\d+", r"global_steps?_\d+")
"""Folders of one state of a run: the Trainer's and what is built on it; torchtune's; verl's."""
INNER = ("actor/lora_adapter", "lora_adapter", "actor/huggingface", "huggingface")
"""Where verl keeps an adapter or a model beside its shards: what can be read as it is comes first."""
VERL = ("model_world_size_*_rank_*.pt", "extra_state_world_size_*_rank_*.pt", "lora_train_meta.json")
"""Files that verl alone writes, into the folder that it keeps an adapter or a model in."""
NATIVE = "consolidated*.safetensors"
"""The weights of Mistral's own format."""


def weights_folder(given: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder with the weights, and a note where it is not the one given. RunError where there is none."""
    if holds_run(given):
        return given, ()
    steps = next(filter(None, (_steps(given, pattern) for pattern in STEPS)), [])
    best = _best_checkpoint(given, steps[-1]) if steps else None
    chosen = next((folder for folder in steps if folder.name == best), None) if best else (steps or [given])[-1]
    if chosen is None:
        raise RunError(
            f"{given}: trainer_state.json names {best} as the best checkpoint, which is not there. Copy it from the "
            f"run, or give another one: {steps[-1]}."
        )
    folder = next((place for place in (chosen, *(chosen / inner for inner in INNER)) if holds_run(place)), None)
    if folder is None:
        advice = recovery(chosen)
        raise RunError(
            f"{chosen}: holds neither adapter_config.json (an adapter), nor config.json with weights (a model), nor "
            f"{PARAMS} with consolidated*.safetensors (one in Mistral's own format), nor checkpoint-N folders. "
            f"Found: {', '.join(sorted(p.name for p in chosen.iterdir())[:8]) or 'nothing'}."
            + (f" {advice}" if advice else "")
        )
    which = "best checkpoint by trainer_state.json" if best else "last checkpoint"
    notes = (f"took {chosen.name}, the {which}",) if chosen != given else ()
    inside = (f"took {folder.relative_to(chosen).as_posix()}, where verl keeps it",) if folder != chosen else ()
    return folder, (*notes, *inside)


def _steps(given: Path, pattern: str) -> list[Path]:
    """The folders of a run's states, by number."""
    folders = [folder for folder in given.iterdir() if folder.is_dir() and re.fullmatch(pattern, folder.name)]
    return sorted(folders, key=lambda folder: int(re.split(r"[-_]", folder.name)[-1]))


def holds_run(folder: Path) -> bool:
    """Whether a folder itself holds an adapter or a model."""
    return (folder / "adapter_config.json").exists() or has_model(folder)


def _best_checkpoint(given: Path, last: Path) -> str | None:
    """The name of the best checkpoint that the trainer noted, if it did."""
    for state in (given / "trainer_state.json", last / "trainer_state.json"):
        best = read_json(state).get("best_model_checkpoint") if state.exists() else None
        if isinstance(best, str):
            return re.split(r"[\\/]", best.rstrip("\\/"))[-1]
    return None


def has_model(folder: Path) -> bool:
    """Whether a folder holds a whole model: its configuration and weights."""
    return _has_hugging_face(folder) or is_native(folder)


def is_native(folder: Path) -> bool:
    """Whether a folder's model is there in Mistral's own format only; beside the other one it is not read."""
    return (folder / PARAMS).exists() and any(folder.glob(NATIVE)) and not _has_hugging_face(folder)


def config_file(folder: Path) -> Path:
    """The file that says what model a folder holds."""
    return folder / (PARAMS if is_native(folder) else "config.json")


def _has_hugging_face(folder: Path) -> bool:
    """Whether a folder holds config.json and weights beside it (FSDP's own files are none, nor are Mistral's)."""
    weights = [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin"), *folder.glob("*.index.json")]
    whole = [file for file in weights if not file.name.startswith(("pytorch_model_fsdp", "consolidated"))]
    return (folder / "config.json").exists() and bool(whole)


def holds_all(folder: Path) -> bool:
    """Whether a Hub repository's folder, or a checkpoint in it, holds an adapter's weights or all of a model's."""
    return any(
        ((place / "adapter_config.json").exists() and any((place / name).exists() for name in ADAPTER_FILES))
        or (config_file(place).exists() and _has_all_weights(place))
        for place in (folder, *folder.glob("checkpoint-*"))
    )


def _has_all_weights(folder: Path) -> bool:
    """Whether all files of a model's weights are there: by its index, or by the numbers in their names."""
    hugging_face = (("model", "safetensors"), ("pytorch_model", "bin"))
    for stem, suffix in (("consolidated", "safetensors"),) if is_native(folder) else hugging_face:
        index = folder / f"{stem}.{suffix}.index.json"
        if index.exists():
            places = read_json(index).get("weight_map")
            if isinstance(places, dict) and all(os.path.lexists(folder / str(file)) for file in places.values()):
                return True
            continue
        files = list(folder.glob(f"{stem}-*-of-*.{suffix}"))
        if (folder / f"{stem}.{suffix}").exists() or (files and len(files) == int(files[0].stem.rpartition("-")[2])):
            return True
    return False


def places(given: Path, folder: Path) -> tuple[Path, ...]:
    """Where a trainer's files may lie: the weights' folder, and those above it up to the whole run's."""
    found = [folder]
    while (found[-1] != given and given in found[-1].parents) or _is_part(found[-1]):
        found.append(found[-1].parent)
    return tuple(found)


def tokenizer_places(given: Path, folder: Path) -> tuple[Path, ...]:
    """Where a run's tokenizer may lie: the same folders, and verl's folder of small files beside its shards."""
    pairs = ((place, place / "huggingface") if is_verls(place) else (place,) for place in places(given, folder))
    return tuple(dict.fromkeys(one for pair in pairs for one in pair if one.is_dir()))


def is_verls(folder: Path) -> bool:
    """Whether verl wrote a folder: it is a step's, an actor's in one, or holds files that only verl writes."""
    if folder.name == "actor" and (_is_step(folder.parent) or (folder / "huggingface" / "config.json").is_file()):
        return True
    return re.fullmatch(STEPS[-1], folder.name) is not None or any(any(folder.glob(pattern)) for pattern in VERL)


def _is_step(folder: Path) -> bool:
    """Whether a folder is called as one state of a run."""
    return re.fullmatch("|".join(STEPS), folder.name) is not None


def _is_part(folder: Path) -> bool:
    """Whether a folder belongs to the run around it: a state of it, or what verl, or verl's merging, left in one."""
    above = folder.parent
    merged = folder.name == "lora_adapter" and is_verls(above.parent)
    return above != folder and (_is_step(folder) or is_verls(above) or merged)
