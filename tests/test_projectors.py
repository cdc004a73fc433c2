"""Projectors against the truth: llama.cpp's converter for what a file holds, transformers for what an image becomes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import metadata
from gguf import GGUFReader
from numpy.typing import NDArray
from tiny import PROJECTORS, TINY, golden, make

from converters import ALL
from exporter.errors import RunError
from exporter.llamacpp import Engine
from exporter.pipeline import Options, prepare
from exporter.plan import Plan, ProjectorPlan
from exporter.profiles import load_profile
from exporter.writer import write

Numbers = NDArray[np.float32]

SEEING = [name for name, tiny in TINY.items() if tiny.processor is not None]
LEVELS = ("f16", "bf16", "q8_0")


def projected(run: Path, level: str, out: Path) -> tuple[Plan, ProjectorPlan, Path]:
    """The plan of a run and of its projector, and the projector's file."""
    _, source, plan = prepare(str(run), [load_profile("f32")], Options(verify=False, mmproj=level))
    assert plan.projector is not None
    file = out / f"{level}.gguf"
    out.mkdir(exist_ok=True)
    write(plan.projector, source, [file], threads=1, progress=lambda _done, _all: None)
    return plan, plan.projector, file


def digest(data: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def test_every_projector_has_a_tiny_model() -> None:
    architectures = {TINY[name].architecture for name in SEEING}
    assert {one.name for one in ALL if one.projector} == {
        one.name for one in ALL if architectures.intersection(one.architectures)
    }


@pytest.mark.parametrize("name", SEEING)
def test_files_are_those_of_llamacpps_converter(name: str, tmp_path: Path) -> None:
    truth, run = golden(name, PROJECTORS), make(name, tmp_path / "run")
    for level in LEVELS:
        _, _, file = projected(run, level, tmp_path / "out")
        reader = GGUFReader(file)
        found = {
            t.name: {"ne": [int(n) for n in t.shape], level: {"type": t.tensor_type.name, "sha256": digest(t.data)}}
            for t in reader.tensors
        }
        assert found == {key: {"ne": row["ne"], level: row[level]} for key, row in truth["tensors"].items()}
        theirs = {key: (field["type"], field["value"]) for key, field in truth["metadata"].items()}
        theirs["general.file_type"] = ("UINT32", load_profile(level).file_type_id)
        ours = {k: v for k, v in metadata(reader).items() if not k.startswith("general.") or k in theirs}
        assert ours == theirs


def test_a_projector_leaves_the_text_as_it_is(tmp_path: Path) -> None:
    run = make("gemma3-vision", tmp_path / "run")
    files = []
    for mmproj in (None, "f16"):
        _, source, plan = prepare(str(run), [load_profile("f32")], Options(verify=False, mmproj=mmproj))
        files.append(tmp_path / f"{mmproj}.gguf")
        write(plan, source, [files[-1]], threads=1, progress=lambda _done, _all: None)
        assert plan.left_out == (() if mmproj else ("vision projector", "vision tower"))
    assert files[0].read_bytes() == files[1].read_bytes()


# What an image becomes, against transformers.


def gemma3(model: Any, pixels: Any) -> Any:
    seen = model.model.vision_tower(pixel_values=pixels).last_hidden_state
    return model.model.multi_modal_projector(seen)[0]


SIGHT: dict[str, tuple[Callable[[Any, Any], Any], float]] = {"gemma3-vision": (gemma3, 2e-3)}
"""How transformers sees, and how far llama.cpp may be from it, in deviations: its products take f16 numbers."""


def by_transformers(name: str, run: Path, image: NDArray[np.uint8]) -> Numbers:
    """The embeddings of an image (height, width, 3), in float32; GELU takes and gives f16 values, as llama.cpp's."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, TINY[name].architecture)
    model = kind.from_pretrained(run, dtype=torch.float32, attn_implementation="eager").eval()
    for module in model.modules():
        if "GELU" in type(module).__name__.upper():
            module.register_forward_pre_hook(lambda _, given: (given[0].half().float(),))
            module.register_forward_hook(lambda _, __, result: result.half().float())
    said = json.loads((run / "preprocessor_config.json").read_text())
    pixels = (image.astype(np.float32) / 255 - said["image_mean"]) / said["image_std"]
    with torch.no_grad():
        seen: Numbers = SIGHT[name][0](model, torch.tensor(pixels).float().permute(2, 0, 1)[None]).numpy()
    return seen


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize("name", SIGHT)
def test_an_image_becomes_what_it_becomes_in_transformers(name: str, tmp_path: Path) -> None:
    run = make(name, tmp_path / "run", dtype="float16")  # the projection of Gemma 3 is always f16
    plan, _, file = projected(run, "f32", tmp_path / "out")
    text = tmp_path / "text.gguf"
    _, source, plan = prepare(str(run), [load_profile("f32")], Options(verify=False))
    write(plan, source, [text], threads=1, progress=lambda _done, _all: None)
    side = dict(TINY[name].config["vision_config"])["image_size"]
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    truth = by_transformers(name, run, image)
    with Engine(text) as engine:
        found = engine.see(file, image)
    assert found.shape == truth.shape
    print(name, np.abs(found - truth).max() / truth.std())
    assert np.abs(found - truth).max() < SIGHT[name][1] * truth.std()


# What is refused.


def test_a_run_without_eyes_has_no_projector(tmp_path: Path) -> None:
    for name, said in (("llama", "no vision tower"), ("gemma4-vision", "not exported")):
        with pytest.raises(RunError, match=said):
            prepare(str(make(name, tmp_path / name)), [load_profile("f32")], Options(verify=False, mmproj="f16"))


def test_without_the_processors_file_nothing_says_the_colours(tmp_path: Path) -> None:
    run = make("gemma3-vision", tmp_path / "run")
    (run / "preprocessor_config.json").unlink()
    with pytest.raises(RunError, match=r"preprocessor_config\.json"):
        prepare(str(run), [load_profile("f32")], Options(verify=False, mmproj="f16"))
