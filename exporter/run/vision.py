"""A run whose vision tower is read too: for a merge, or for a projector's file."""

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.config import complete, read_json
from exporter.errors import RunError
from exporter.run.folder import is_native
from exporter.run.values import Run, Vision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Where both are there, the second's fields count; it holds the image processor's in a part of their own.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PART = "image_processor"


def with_tower(run: Run) -> Run:
    """The run with its vision tower's weights, where they are read by names of their own."""
    return run if run.layers is not None else replace(run, tower=run.family.projector)


def with_projector(run: Run, level: str) -> Run:
    """The run with its projector at a level.

    RunError where the model has no vision tower, or one whose projector is not exported, or that llama.cpp computes
    otherwise.
    """
    if is_native(run.base):
        raise RunError(f"{run.base}: Mistral's own format, of which only the text model is read. Leave --mmproj out.")
    path, projector = run.base / "config.json", run.family.projector
    stored = read_json(path)
    vision = stored.get("vision_config")
    if not isinstance(vision, dict):
        raise RunError(
            f"{path}: {run.config['architecture']} has no vision tower (vision_config), so there is no projector to "
            "write. Leave --mmproj out."
        )
    if projector is None:
        raise RunError(
            f"{path}: the projector of {run.config['architecture']} is not exported, only its text model. Leave "
            "--mmproj out."
        )
    if run.layers is not None:
        raise RunError(
            f"{run.path}: the adapter repeats layers (layer_replication), and which of the vision tower's is not known "
            "here. Leave --mmproj out."
        )
    text, processor = stored.get("text_config") or stored, _processor([run.folder, run.path, run.base])
    parts: Mapping[str, object] = {"text": text, "model": stored, "processor": _fields(processor)}
    if isinstance(rotation := vision.get("rope_parameters"), dict):
        vision = {"rope_theta": rotation.get("rope_theta")} | vision
    outside = {f"{part}_{key}": value for part, fields in parts.items() for key, value in _plain(fields).items()}
    config, warnings = complete(outside | _tokens(run) | _plain(vision), projector.table, path)
    return replace(run, tower=projector, vision=Vision(level, config, warnings, processor))


def _plain(fields: object) -> dict[str, object]:
    """A part's own fields that are not null."""
    given = fields if isinstance(fields, dict) else {}
    return {key: value for key, value in given.items() if value is not None and not isinstance(value, dict)}


def _tokens(run: Run) -> dict[str, object]:
    """The id of each added token, as ``token_…``."""
    file = run.tokenizer_files.get("tokenizer.json")
    added = read_json(file).get("added_tokens") if file else None
    return {f"token_{one['content']}": one["id"] for one in added} if isinstance(added, list) else {}


def _fields(files: "Sequence[Path]") -> dict[str, object]:
    """The image processor's fields."""
    parts = [part for file in files for part in (read_json(file), read_json(file).get(PART)) if isinstance(part, dict)]
    return {key: value for part in parts for key, value in part.items()}


def _processor(places: "Sequence[Path]") -> "tuple[Path, ...]":
    """The image processor's files, of the first folder that has any. RunError where none has."""
    for place in places:
        if found := tuple(place / name for name in PROCESSORS if (place / name).is_file()):
            return found
    raise RunError(
        f"{places[0]}: holds no {PROCESSORS[0]}, and the base does not either: how the colours of an image become "
        "numbers is said there. Copy it from the base model."
    )
