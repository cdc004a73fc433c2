"""The proof of a file's fields and weights: right files pass, quantized ones too, and each wrong thing is named."""

from pathlib import Path

import numpy as np
import pytest
from exported import changed, written
from gguf import GGUFReader
from quantizes import llamacpp_quantizes
from tiny import make

from exporter.check.contents import check_contents
from exporter.pipeline import Options, prepare

LEVELS = ("f32", "bf16", "q8_0", "q4_k_m", "q2_k")
ALIKE = {"fields": "pass", "weights": "pass"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A run whose rows take K-quants, and its files."""
    folder = tmp_path_factory.mktemp("llama")
    run = make("llama-256", folder / "run")
    return run, written(run, folder, LEVELS)[1]


def contents(run: Path, file: Path) -> dict[str, tuple[str, str]]:
    """How both proofs went, and what they say."""
    _, source, plan = prepare(str(run), [], Options(verify=False, prove=True))
    return {check.name: (check.status, check.detail) for check in check_contents(file, plan, source)}


def statuses(run: Path, file: Path) -> dict[str, str]:
    return {name: status for name, (status, _) in contents(run, file).items()}


# Stacked experts, combined rows, matrices that are turned over, heads in another order, kept MXFP4.
@pytest.mark.parametrize("name", ["qwen3moe", "phi3", "gpt2", "gemma3", "llama4", "deepseek2"])
def test_right_files_pass_at_every_level(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.slices.SLICE", 4096)  # of most tensors, only a part is compared then
    run = make(name, tmp_path / "run")
    for file in written(run, tmp_path, LEVELS)[1].values():
        assert statuses(run, file) == ALIKE


def test_a_file_of_llamacpps_quantizer_passes(llama: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    run, files = llama
    llamacpp_quantizes(files["f32"], {tmp_path / "q3.gguf": 12, tmp_path / "iq4.gguf": 25})
    assert statuses(run, tmp_path / "q3.gguf") == ALIKE
    status, detail = contents(run, tmp_path / "iq4.gguf")["weights"]
    assert status == "skipped"
    assert "their types are not made here" in detail


@pytest.mark.parametrize("level", LEVELS)
def test_the_weights_of_another_run_are_told(level: str, llama: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    run, files = llama
    other = make("llama-256", tmp_path / "run")
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.01
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    status, detail = contents(other, files[level])["weights"]
    assert status == "fail"
    assert "1 of 21 tensors unlike the run's: blk.1.ffn_up.weight: " in detail
    assert statuses(run, files[level]) == ALIKE


def test_fields_that_differ_are_told(llama: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    run, files = llama
    wrong = changed(files["q4_k_m"], tmp_path / "wrong.gguf", llama__rope__freq_base=12345.0)
    status, detail = contents(run, wrong)["fields"]
    assert status == "fail"
    assert "unlike the run's: llama.rope.freq_base is 12345.0 in the file, and 10000.0 by the run" in detail
    more = changed(files["q4_k_m"], tmp_path / "more.gguf", llama__rope__scaling__type="yarn")
    assert "is 'yarn' in the file, and absent by the run" in contents(run, more)["fields"][1]


def test_missing_and_misshapen_tensors_are_told(llama: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    run, files = llama
    fewer = changed(files["f32"], tmp_path / "fewer.gguf", {"blk.0.attn_q.weight": None})
    assert "without blk.0.attn_q.weight" in contents(run, fewer)["weights"][1]
    turned = np.zeros((512, 128), np.float32)
    shape = changed(files["f32"], tmp_path / "shape.gguf", {"blk.0.attn_q.weight": turned})
    assert "blk.0.attn_q.weight: has the shape [512, 128]" in contents(run, shape)["weights"][1]


def test_an_importance_matrix_leaves_only_some_to_compare(llama: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    run, files = llama
    file = changed(files["q4_k_m"], tmp_path / "m.gguf", quantize__imatrix__file="imatrix.gguf")
    status, detail = contents(run, file)["weights"]
    assert status == "skipped"
    assert "an importance matrix chose their values" in detail
    norm = next(np.array(t.data) for t in GGUFReader(file).tensors if t.name == "output_norm.weight")
    assert norm.dtype == np.float32
    other = changed(file, tmp_path / "n.gguf", {"output_norm.weight": norm + np.float32(1)})
    assert contents(run, other)["weights"][0] == "fail"


@pytest.mark.parametrize(
    "tampered",
    [
        {"tokenizer__ggml__eos_token_id": 300},
        {"tokenizer__ggml__eot_token_id": "300"},
        {"tokenizer__ggml__add_eos_token": "true"},
        {"tokenizer__chat_template__tool_use": "EVIL"},
        {"general__sampling__temp": "99"},
        {"llama__context_length": 7},
    ],
)
def test_a_tampered_field_is_told(
    tampered: dict[str, object], llama: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    run, files = llama
    status, detail = contents(run, changed(files["q8_0"], tmp_path / "t.gguf", **tampered))["fields"]
    assert status == "fail"
    assert next(iter(tampered)).replace("__", ".") in detail


def test_a_list_that_differs_is_told_by_its_place(llama: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    run, files = llama
    kinds = [int(kind) for kind in GGUFReader(files["q8_0"]).fields["tokenizer.ggml.token_type"].contents()]
    kinds[5] = 4
    wrong = changed(files["q8_0"], tmp_path / "t.gguf", tokenizer__ggml__token_type=kinds)
    assert "tokenizer.ggml.token_type[5] is 4 in the file, and" in contents(run, wrong)["fields"][1]
