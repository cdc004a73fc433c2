"""The writer against the truth: llama.cpp's quantizer for bytes, llama.cpp and gguf-py for headers."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from exported import metadata, planned, tensors, written
from gguf import GGUFReader
from tiny import TINY, make

from exporter import writer
from exporter.errors import WeightError
from exporter.llamacpp import load
from exporter.plan import Job, Steps
from exporter.profiles import load_profile, profile_names
from exporter.writer import FEWEST_ROWS, halves_to_pairs, slices

LEVELS = profile_names()
QUANTIZE = """
import ctypes, json, sys
import llama_cpp
llama_cpp.llama_backend_init()
for source, out, ftype in json.load(sys.stdin):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 1
    if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)) != 0:
        sys.exit("llama.cpp refused " + out)
"""
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from exporter.cli import main
main()
"""


def quantized_by_llamacpp(source: Path, out: Path) -> Mapping[str, Path]:
    """What llama.cpp makes of an f32 file at each level, in a process of its own."""
    files = {level: out / f"llama.cpp-{level}.gguf" for level in LEVELS}
    jobs = [[str(source), str(file), load_profile(level).file_type_id] for level, file in files.items()]
    done = subprocess.run(
        [sys.executable, "-c", QUANTIZE], input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return files


# llama-256: rows of whole blocks. llama: rows that fit only the small blocks, or none. qwen3moe: experts.
# gemma2: no head of its own. llama3: a tensor that no checkpoint stores.
SHOWN = ("llama-256", "llama", "qwen3moe", "gemma2", "llama3")
REST = [pytest.param(name, marks=pytest.mark.full) for name in TINY if name not in SHOWN]


@pytest.mark.parametrize("name", [*SHOWN, *REST])
def test_every_level_has_the_bytes_of_llamacpps_quantizer(name: str, tmp_path: Path) -> None:
    _, ours = written(make(name, tmp_path / "run"), tmp_path / "out", LEVELS)
    theirs = quantized_by_llamacpp(ours["f32"], tmp_path)
    for level in LEVELS:
        found, truth = tensors(ours[level]), tensors(theirs[level])
        assert [tensor[:2] for tensor in found] == [tensor[:2] for tensor in truth], level
        assert [one[0] for one, other in zip(found, truth, strict=True) if one != other] == [], level
        assert metadata(GGUFReader(ours[level])) == metadata(GGUFReader(theirs[level])), level


@pytest.mark.parametrize("name", ["llama-256", "mixtral", "gemma3-vision"])
def test_threads_and_slices_leave_the_bytes_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, levels = make(name, tmp_path / "run", dtype="bfloat16"), ("bf16", "q8_0", "q4_k_m", "q2_k")
    _, one = written(run, tmp_path / "one", levels, threads=1)
    expected = {level: file.read_bytes() for level, file in one.items()}
    monkeypatch.setattr(writer, "SLICE", 4096)
    for threads in (1, 2):
        _, other = written(run, tmp_path / f"{threads}", levels, threads=threads)
        assert {level: file.read_bytes() for level, file in other.items()} == expected


def test_a_level_is_the_same_alone_and_among_others(tmp_path: Path) -> None:
    run = make("llama-256", tmp_path / "run")
    _, alone = written(run, tmp_path / "alone", ("q4_k_m",))
    _, among = written(run, tmp_path / "among", ("q5_0", "q4_k_m", "f16"))
    assert alone["q4_k_m"].read_bytes() == among["q4_k_m"].read_bytes()


SHAPES = [(1,), (700,), (1, 8), (63, 8), (64, 8), (65, 8), (127, 8), (128, 8), (1000, 7), (32000, 40), (40, 9_000_000)]


def job(shape: tuple[int, ...], heads: int = 0) -> Job:
    """A job of so many parts as its experts are."""
    parts = shape[0] if len(shape) == 3 else 1
    return Job("t", shape, tuple(f"w{e}" for e in range(parts)), ("F32",), (0,), Steps(heads=heads))


@pytest.mark.parametrize("size", [1, 4096, 1 << 21])
def test_slices_cover_every_row_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SLICE", size)
    jobs = [job(shape) for shape in SHAPES] + [job((3, *shape)) for shape in SHAPES if len(shape) == 2]
    for one in jobs:
        rows = one.shape[-2] if len(one.shape) > 1 else one.shape[0]
        pieces = list(slices([one]))
        for part in range(len(one.sources)):
            ends = [(piece.start, piece.stop) for piece in pieces if piece.part == part]
            assert [row for start, stop in ends for row in range(start, stop)] == list(range(rows))
            assert all(stop - start >= min(FEWEST_ROWS, rows) for start, stop in ends)
        assert {piece.part for piece in pieces} == set(range(len(one.sources)))


@pytest.mark.parametrize(("rows", "heads"), [(64, 4), (128, 1), (288, 6), (576, 9), (960, 5), (4096, 32), (1280, 10)])
def test_slices_hold_whole_heads(rows: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SLICE", 1)
    pieces = list(slices([job((rows, 16), heads)]))
    assert all(piece.start % (rows // heads) == 0 == piece.stop % (rows // heads) for piece in pieces)
    assert pieces[-1].stop == rows
    assert all(piece.stop - piece.start >= min(FEWEST_ROWS, rows) for piece in pieces)


@pytest.mark.parametrize(("heads", "head", "columns"), [(1, 2, 1), (3, 8, 5), (4, 64, 2), (2, 6, 3)])
def test_halves_become_pairs(heads: int, head: int, columns: int) -> None:
    rows = np.random.default_rng(0).standard_normal((heads * head, columns)).astype(np.float32)
    found = halves_to_pairs(rows, head)
    for h in range(heads):
        for i in range(head // 2):
            for half in range(2):  # row 2 i + half of a head is row i of that half
                assert np.array_equal(found[h * head + 2 * i + half], rows[h * head + half * head // 2 + i])
    assert np.array_equal(halves_to_pairs(rows[:, 0], head), found[:, 0])


def spoil(run: Path, weight: str, value: float, row: int = 70) -> None:
    """Set one number of a weight."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415  (imports torch)

    tensors = load_file(run / "model.safetensors")
    tensors[weight].view(-1)[row] = value
    save_file(tensors, run / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("level", ["f32", "q4_k_m"])
def test_what_is_not_finite_is_refused(value: float, level: str, tmp_path: Path) -> None:
    run = make("llama-256", tmp_path / "run")
    spoil(run, "model.layers.1.mlp.down_proj.weight", value)
    with pytest.raises(WeightError, match=r"blk\.1\.ffn_down\.weight: holds NaN or infinity \(from model\.layers\.1"):
        written(run, tmp_path / "out", (level,))


@pytest.mark.parametrize("value", [7e4, -7e4])
def test_what_f16_cannot_hold_is_refused(value: float, tmp_path: Path) -> None:
    run = make("llama-256", tmp_path / "run")
    spoil(run, "model.layers.0.self_attn.v_proj.weight", value)
    with pytest.raises(
        WeightError, match=r"blk\.0\.attn_v\.weight: holds 70000, and f16 ends at 65504\. Export to bf16"
    ):
        written(run, tmp_path / "out", ("f16",))
    _, files = written(run, tmp_path / "out", ("bf16", "q8_0"))
    assert all(load(file, ["the"]).finite for file in files.values())


def test_what_f16_can_just_hold_is_not_refused(tmp_path: Path) -> None:
    run = make("llama-256", tmp_path / "run")
    spoil(run, "model.layers.0.self_attn.v_proj.weight", 65504.0)
    _, files = written(run, tmp_path / "out", ("f16",))
    found = {tensor.name: tensor.data for tensor in GGUFReader(files["f16"]).tensors}
    assert found["blk.0.attn_v.weight"].max() == 65504.0


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    run, out = make("llama-256", tmp_path / "run"), tmp_path / "out"
    size = planned(run, "q8_0", "f32").outputs[0].bytes
    # The first file fits below the limit, the second does not.
    command = [sys.executable, "-c", LIMITED, str(size + 4096), "export", str(run), "--quant", "q8_0,f32"]
    done = subprocess.run(
        [*command, "--no-verify", "--out", str(out)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "cannot be written: [Errno 27] File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists() or list(out.iterdir()) == []


def test_a_header_says_what_the_plan_says(tmp_path: Path) -> None:
    plan, files = written(make("llama3", tmp_path / "run"), tmp_path / "out", ("q4_0",))
    reader = GGUFReader(files["q4_0"])
    found = {key: value for key, (_, value) in metadata(reader).items()}
    assert set(found) == set(plan.outputs[0].metadata)
    for key, value in plan.outputs[0].metadata.items():
        expected = list(value) if isinstance(value, tuple) else value
        assert found[key] == (pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected), key
    assert [(t.name, tuple(reversed(t.shape.tolist())), t.tensor_type.name) for t in reader.tensors] == [
        (job.tensor, job.shape, job.types[0]) for job in plan.jobs
    ]
    assert [t.data_offset for t in reader.tensors] == [plan.outputs[0].header_bytes + j.offsets[0] for j in plan.jobs]
    facts = load(files["q4_0"], ["the"]).facts
    assert facts.n_vocab == 312
    assert facts.n_ctx_train == 65536
    assert facts.n_params == sum(job.weights for job in plan.jobs)
    assert facts.chat_template == plan.outputs[0].metadata["tokenizer.chat_template"]
