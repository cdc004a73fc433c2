"""Projectors against the truth: llama.cpp's converter for what a file holds, transformers for what an image becomes."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import adapted, load, one_thread, train
from exported import metadata
from gguf import GGUFReader
from numpy.typing import NDArray
from tiny import PROJECTORS, TINY, golden, make

from converters import ALL
from exporter.check.sight import check_sight
from exporter.errors import OutputError, RunError
from exporter.llamacpp import Engine
from exporter.pipeline import Options, export, prepare
from exporter.plan import Plan, ProjectorPlan
from exporter.profiles import load_profile
from exporter.report import read_report
from exporter.report.table import render_table
from exporter.writer import write

__all__ = ["one_thread"]

Numbers = NDArray[np.float32]
Model = Pixels = Any  # neither transformers nor torch, when it is imported late, has a type to write

QWEN2_5 = ("qwen2.5vl", "qwen2.5vl-yarn")
SEEING = [name for name, tiny in TINY.items() if tiny.processor is not None]
LEVELS = ("f16", "bf16", "q8_0")


# The converter writes the text's epsilon, which is the vision tower's own in the real models alone.
FAULTS = {name: {"clip.vision.attention.layer_norm_epsilon": ("FLOAT32", float(np.float32(1e-6)))} for name in QWEN2_5}


# It passes over every name with "language_model." in it, the embeddings' too, one row of which llama.cpp asks for.
MISSED = {"v.token_embd.img_break"}
# Of two names for this norm of Llama 4 it takes Gemma 4's, which llama.cpp uses otherwise: behind the attention.
TAKEN_FOR = {".attn_post_norm.": ".ln2."}


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
        assert not MISSED & set(truth["tensors"])
        theirs = {
            re.sub("|".join(TAKEN_FOR), lambda found: TAKEN_FOR[found[0]], key): {"ne": row["ne"], level: row[level]}
            for key, row in truth["tensors"].items()
        }
        assert {key: row for key, row in found.items() if key not in MISSED} == theirs
        keys = {key: (field["type"], field["value"]) for key, field in truth["metadata"].items()}
        keys["general.file_type"] = ("UINT32", load_profile(level).file_type_id)
        ours = {k: v for k, v in metadata(reader).items() if not k.startswith("general.") or k in keys}
        faults = FAULTS.get(name, {})
        assert ours == keys | faults
        assert all(keys[key] != value for key, value in faults.items())  # each is still one


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


def gemma3(model: Model, pixels: Pixels) -> Pixels:
    seen = model.model.vision_tower(pixel_values=pixels).last_hidden_state
    return model.model.multi_modal_projector(seen)[0]


def qwen(model: Model, pixels: Pixels) -> Pixels:
    """Patches in squares of four, each twice, as two frames; what deeper layers add comes beside."""
    import torch  # noqa: PLC0415

    tower = model.model.visual
    size = tower.config.patch_size
    _, _, height, width = pixels.shape
    rows, columns = height // size, width // size
    squares = pixels.reshape(1, 3, rows // 2, 2, size, columns // 2, 2, size).permute(2, 5, 3, 6, 1, 4, 7, 0)
    patches = squares.expand(-1, -1, -1, -1, -1, -1, -1, 2).permute(0, 1, 2, 3, 4, 7, 5, 6).reshape(rows * columns, -1)
    seen = tower(patches.contiguous(), grid_thw=torch.tensor([[1, rows, columns]]))
    return torch.cat([seen.pooler_output, *(getattr(seen, "deepstack_features", None) or [])], dim=1)


def pixtral(model: Model, pixels: Pixels) -> Pixels:
    """The embedding of the token that ends a row comes behind each row but the last."""
    import torch  # noqa: PLC0415

    size = torch.tensor([pixels.shape[2:]])
    tower = model.model.vision_tower(pixels, image_sizes=size, output_hidden_states=True)
    seen = model.model.multi_modal_projector(tower.hidden_states[-1].squeeze(0), size).squeeze(0)
    side = model.config.vision_config.patch_size * model.config.spatial_merge_size
    rows = seen.reshape(pixels.shape[2] // side, -1, seen.shape[-1])
    end = model.get_input_embeddings().weight[311].expand(rows.shape[0], 1, -1)  # [IMG_BREAK]
    return torch.cat([rows, end], dim=1).reshape(-1, seen.shape[-1])[:-1]


def llama4(model: Model, pixels: Pixels) -> Pixels:
    """In llama.cpp's order: the squares of an image column by column, where training takes them row by row."""
    seen = model.multi_modal_projector(model.vision_model(pixels).last_hidden_state)[0]
    side = int(len(seen) ** 0.5)
    return seen.reshape(side, side, -1).transpose(0, 1).reshape(len(seen), -1)


SIGHT: dict[str, tuple[Callable[[Model, Pixels], Pixels], tuple[int, int], float]] = {
    "gemma3-vision": (gemma3, (32, 32), 2e-3),
    "qwen2.5vl": (qwen, (96, 160), 2e-3),  # two windows beside each other
    "mistral3": (pixtral, (48, 64), 2e-3),
    # Training takes the formula of GELU itself, llama.cpp the one by tanh: 2.8e-3 apart, and 5e-4 by the same formula.
    "llama4-vision": (llama4, (56, 56), 5e-3),
    # The same behind the tower, and patches in f16: 3e-3.
    "qwen3vl": (qwen, (48, 32), 5e-3),
    "qwen3vlmoe": (qwen, (48, 32), 5e-3),
}
"""How transformers sees an image of a size, and how far llama.cpp may be from it, in deviations: it multiplies f16."""


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
    image = np.random.default_rng(0).integers(0, 256, (*SIGHT[name][1], 3), dtype=np.uint8)
    truth = by_transformers(name, run, image)
    with Engine(text) as engine:
        found = engine.see(file, image)
    assert found.shape == truth.shape
    assert np.abs(found - truth).max() < SIGHT[name][2] * truth.std()


@pytest.mark.filterwarnings("default")  # deprecations inside transformers
@pytest.mark.parametrize(
    ("name", "trained"), [("gemma3-vision", "q_proj"), ("qwen2.5vl-yarn", "qkv"), ("qwen3vl", "linear_fc1")]
)
def test_what_was_trained_of_the_eyes_is_in_the_file(name: str, trained: str, tmp_path: Path) -> None:
    base, adapter = make(name, tmp_path / "base"), tmp_path / "adapter"
    train(load(base), adapter, target_modules=[trained, "o_proj"])
    state = adapted(load(base), adapter).merge_and_unload().state_dict()
    trained_weights = {key: value for key, value in state.items() if ".0." in key and f".{trained}.weight" in key}
    _, source, plan = prepare(str(adapter), [load_profile("f32")], Options(verify=False, mmproj="f32", base=str(base)))
    assert plan.projector is not None
    file = tmp_path / "seen.gguf"
    write(plan.projector, source, [file], threads=1, progress=lambda _done, _all: None)
    assert source.changes.left_out == ()
    found = {t.name: np.array(t.data) for t in GGUFReader(file).tensors}
    rows = {"q_proj": ("attn_q",), "qkv": ("attn_q", "attn_k", "attn_v"), "linear_fc1": ("ffn_up",)}[trained]
    ours = np.concatenate([found[f"v.blk.0.{row}.weight"] for row in rows])
    theirs = next(value.numpy() for key, value in trained_weights.items() if "vis" in key and "deepstack" not in key)
    assert np.abs(ours - theirs).max() <= 2**-22 * np.abs(theirs).max()


def test_an_export_writes_proves_and_reports_the_projector(tmp_path: Path) -> None:
    run = make("gemma3-vision", tmp_path / "run")
    asked = Options(verify=False, mmproj="q8_0", command=("ggufx",))
    report, folder = export(str(run), [load_profile("q8_0")], tmp_path / "out", options=asked, progress=lambda *_: None)
    seen: Any = report.get("projector")
    assert seen["file"] == "mmproj-run-Q8_0.gguf"
    assert (folder / seen["file"]).stat().st_size == seen["bytes"]
    assert [level["quant"] for level in report["levels"]] == ["q8_0"]
    checks = {check["name"]: check["status"] for check in report.get("checks") or []}
    assert checks["projector"] == "pass"
    assert (report.get("run") or {}).get("left_out") == []
    with pytest.raises(OutputError, match="exists already"):
        export(str(run), [load_profile("f16")], tmp_path / "out", options=asked, progress=lambda *_: None)


def test_the_pages_show_the_projector_also_when_levels_are_added(tmp_path: Path) -> None:
    run = make("gemma3-vision", tmp_path / "run")
    first = Options(verify=False, mmproj="q8_0", command=("ggufx",))
    more = Options(verify=False, command=("ggufx",))
    export(str(run), [load_profile("q8_0")], tmp_path / "out", options=first, progress=lambda *_: None)
    processor = hashlib.sha256((run / "preprocessor_config.json").read_bytes()).hexdigest()
    for _ in range(2):
        document = read_report(tmp_path / "out")
        assert (document.get("projector") or {})["processor"] == {"preprocessor_config.json": processor}
        assert "projector" in [check["name"] for check in document.get("checks") or []]
        assert "projector q8_0  mmproj-run-Q8_0.gguf" in render_table(document)
        for page in ("report.md", "report.html"):
            assert "mmproj-run-Q8_0.gguf" in (tmp_path / "out" / page).read_text(encoding="utf-8")
        if len(document["levels"]) == 1:
            export(str(run), [load_profile("f16")], tmp_path / "out", options=more, progress=lambda *_: None)
    assert len(document["levels"]) == 2
    (tmp_path / "out" / "mmproj-run-Q8_0.gguf").write_bytes(b"other")
    with pytest.raises(OutputError, match=r"mmproj-run-Q8_0\.gguf"):
        export(str(run), [load_profile("bf16")], tmp_path / "out", options=more, progress=lambda *_: None)


def test_a_damaged_projector_is_not_kept(tmp_path: Path) -> None:
    run = make("gemma3-vision", tmp_path / "run")
    plan, _, file = projected(run, "f16", tmp_path / "out")
    _, source, plan = prepare(str(run), [load_profile("f32")], Options(verify=False))
    text = tmp_path / "text.gguf"
    write(plan, source, [text], threads=1, progress=lambda _done, _all: None)
    assert check_sight(text, file).status == "pass"
    file.write_bytes(file.read_bytes().replace(b"gemma3", b"gemma9"))
    assert check_sight(text, file).status == "fail"


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
