"""The writer against the truth: llama.cpp's quantizer for bytes, llama.cpp and gguf-py for headers."""

import subprocess
import sys
from pathlib import Path

import pytest
from exported import metadata, planned, tensors, written
from gguf import GGUFReader
from quantizes import llamacpp_quantizes
from tiny import TINY, make

from exporter import slices
from exporter.errors import WeightError
from exporter.llamacpp import load
from exporter.profiles import load_profile, profile_names
from exporter.profiles.rules import halves_name

LEVELS = profile_names()
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from exporter.cli import main
main()
"""


# llama-256: rows of whole blocks. llama: rows that fit only the small blocks, or none. qwen3moe: experts.
# gemma2: no head of its own. llama3: a tensor that no checkpoint stores.
SHOWN = ("llama-256", "llama", "qwen3moe", "gemma2", "llama3")
REST = [pytest.param(name, marks=pytest.mark.full) for name in TINY if name not in SHOWN]


@pytest.mark.parametrize("name", [*SHOWN, *REST])
def test_every_level_has_the_bytes_of_llamacpps_quantizer(name: str, tmp_path: Path) -> None:
    _, ours = written(make(name, tmp_path / "run"), tmp_path / "out", LEVELS)
    theirs = {level: tmp_path / f"llama.cpp-{level}.gguf" for level in LEVELS}
    llamacpp_quantizes(ours["f32"], {theirs[level]: load_profile(level).file_type_id for level in LEVELS})
    for level in LEVELS:
        # Some tensors of a 16-bit level are as the converter stores them (test_families.py); the quantizer leaves 32.
        apart = {name for name, kind, _ in tensors(ours[level]) if halves_name(name) and kind != "F32"}
        found, truth = ([one for one in tensors(file) if one[0] not in apart] for file in (ours[level], theirs[level]))
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
    monkeypatch.setattr(slices, "SLICE", 4096)
    for threads in (1, 2):
        _, other = written(run, tmp_path / f"{threads}", levels, threads=threads)
        assert {level: file.read_bytes() for level, file in other.items()} == expected


def test_a_level_is_the_same_alone_and_among_others(tmp_path: Path) -> None:
    run = make("llama-256", tmp_path / "run")
    _, alone = written(run, tmp_path / "alone", ("q4_k_m",))
    _, among = written(run, tmp_path / "among", ("q5_0", "q4_k_m", "f16"))
    assert alone["q4_k_m"].read_bytes() == among["q4_k_m"].read_bytes()


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
