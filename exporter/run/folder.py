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
    steps = "|".join((*STEPS, "actor", "huggingface", "lora_adapter"))
    while (found[-1] != given and given in found[-1].parents) or re.fullmatch(steps, found[-1].name):
        found.append(found[-1].parent)
    return tuple(found)
