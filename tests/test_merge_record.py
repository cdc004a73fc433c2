"""What lies beside a merged folder's weights: the base's licence, a record of the merge; and whom NaN is blamed on."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapters import PAIR, finished, load, one_thread, quiet, source_of, store, train, write_adapter
from checkpoints import of_peft, same, state, write
from click.testing import CliRunner
from exported import written
from safetensors.torch import load_file, save_file
from tiny import make

from exporter.checkpoint.record import MOST
from exporter.cli import cli
from exporter.errors import WeightError
from exporter.inputs import hash_inputs
from exporter.merge_check import check_merge
from exporter.report.compose import merge_block
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["one_thread"]
TERMS = {
    "LICENSE.txt": "Apache",
    "NOTICE": "made by",
    "USE_POLICY.md": "be kind",
    "licence.md": "Apache",
    "README.md": "x",
}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in ("llama", "llama-bias", "qwen2")}


def test_the_record_says_what_was_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    base, out = bases["llama"], tmp_path / "out"
    one = train(load(base), tmp_path / "mine", target_modules=["q_proj"], use_rslora=True)
    two = train(load(base), tmp_path / "theirs", target_modules=["q_proj", "o_proj"])
    words = ["merge", str(one), "--base", str(base), "--adapter", f"{two}:0.5", "--out", str(out), "--quiet", "--json"]
    done = CliRunner().invoke(cli, words)
    assert "merge.json" in json.loads(done.stdout)["files"]
    text = (out / "merge.json").read_text()
    said = json.loads(text)
    run = open_run(one, base=str(base), adapters=(f"{two}:0.5",))
    source = open_source(run)
    hashes = hash_inputs(run, source)
    finished(source)
    assert said["base"] == {"name": "llama", "revision": None, "sha256": hashes[base]}
    told = [(one["name"], one["method"], one["weight"], one["sha256"]) for one in said["adapters"]]
    assert told == [("mine", "lora", 1.0, hashes[one]), ("theirs", "lora", 0.5, hashes[two])]
    assert said["adapters"][0]["settings"]["use_rslora"] is True
    assert {key: said[key] for key in ("ggufx", "name", "architecture", "dtype", "head", "tensors", "qlora_base")} == {
        "ggufx": version("ggufx"),
        "name": "mine",
        "architecture": "LlamaForCausalLM",
        "dtype": "bf16",
        "head": "of its own",
        "tensors": 21,
        "qlora_base": None,
    }
    block = merge_block(source)
    assert said["merge"].keys() == block.keys()
    assert said["merge"]["largest_relative_delta"] == pytest.approx(block["largest_relative_delta"])
    assert said["merge"]["weights_changed"] == 4
    assert str(tmp_path) not in text
    merged = open_run(out)
    assert (merged.kind, merged.trainer, merged.trainer_from) == ("checkpoint", "peft", "merge.json")
    assert CliRunner().invoke(cli, [*words, "--overwrite"]).exit_code == 0
    assert (out / "merge.json").read_text() == text


def test_the_licence_comes_along_and_the_folder_is_a_model(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    for name, text in TERMS.items():
        (base / name).write_text(text)
    run = write_adapter(tmp_path / "run", base, {})
    made = write(run, base, tmp_path / "out")
    found = {name for name in TERMS if (tmp_path / "out" / name).exists()}
    assert found == set(TERMS) - {"README.md"}
    assert all((tmp_path / "out" / name).read_text() == TERMS[name] for name in found)
    assert made["not_copied"] == []
    assert same(state(tmp_path / "out"), of_peft(base, run))
    again = open_run(tmp_path / "out")
    assert again.kind == "checkpoint"
    assert written(tmp_path / "out", tmp_path / "gguf", ["bf16"])[1]["bf16"].stat().st_size > 0
    write(tmp_path / "run", tmp_path / "out", tmp_path / "twice")
    assert (tmp_path / "twice" / "LICENSE.txt").read_text() == "Apache"


def test_what_is_no_short_text_is_not_copied_and_named(tmp_path: Path) -> None:
    base, secret = make("llama", tmp_path / "base"), tmp_path / "secret"
    secret.write_text("mine alone")
    (base / "LICENSE").symlink_to(secret)
    (base / "LICENSES").mkdir()
    (base / "NOTICE").symlink_to(base / "NOTICE")
    (base / "license.pdf").write_bytes(b"%PDF\0")
    (base / "license.txt").write_text("x" * (MOST + 1))
    (base / "use_policy").symlink_to("config.json")
    run = write_adapter(tmp_path / "run", base, {})
    words = ["merge", str(run), "--base", str(base), "--out", str(tmp_path / "out"), "--quiet"]
    shown = CliRunner().invoke(cli, words).stdout
    names = ["LICENSE", "LICENSES", "NOTICE", "license.pdf", "license.txt"]
    assert [line for line in shown.splitlines() if line.startswith("not copied")] == [
        f"not copied: {name} of the base, no short text" for name in names
    ]
    assert not any((tmp_path / "out" / name).exists() for name in names)
    assert (tmp_path / "out" / "use_policy").read_text() == (base / "config.json").read_text()


def test_files_of_the_hubs_cache_are_links_and_tell_the_revision(bases: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "models--org--llama"
    base = cache / "snapshots" / ("0123456789" * 4)
    base.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for k, file in enumerate([*bases["llama"].iterdir(), None]):
        (cache / "blobs" / str(k)).write_bytes(file.read_bytes() if file else b"Apache")
        (base / (file.name if file else "LICENSE")).symlink_to(f"../../blobs/{k}")
    write(write_adapter(tmp_path / "run", base, {}), base, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Apache"
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["base"]["revision"] == base.name


LORA = ("lora_A.weight", "lora_B.weight", "lora_B.bias")
TRAINED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("llama", {"target_modules": ["q_proj"]}, "q_proj.lora_A.weight"),
    ("llama", {"target_modules": ["q_proj"]}, "q_proj.lora_B.weight"),
    ("llama-bias", {"target_modules": ["q_proj"], "lora_bias": True}, "q_proj.lora_B.bias"),
    ("llama", {"target_modules": ["q_proj"], "use_dora": True}, "q_proj.lora_magnitude_vector"),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head.weight"),
    ("qwen2", {"target_modules": ["q_proj"], "trainable_token_indices": [3]}, "trainable_tokens_delta"),
)


@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_in_an_adapter_is_named(
    value: float, case: tuple[str, dict[str, Any], str], bases: dict[str, Path], tmp_path: Path
) -> None:
    base, run = bases[case[0]], tmp_path / "run"
    train(load(base), run, **case[1])
    tensors = load_file(run / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith(case[2]))
    tensors[name].view(-1)[-1] = value
    store(run, tensors)
    words = (
        rf"run/adapter_model.safetensors: {name} holds NaN or infinity, and \S+ is made of it. The training diverged"
    )
    with pytest.raises(WeightError, match=words):
        written(run, tmp_path / "gguf", ["bf16"])
    with pytest.raises(WeightError, match=words):
        write(run, base, tmp_path / "out")
    opened = open_run(run, base=str(base))
    with pytest.raises(WeightError, match=words):
        check_merge(opened, open_source(opened), lambda *_: None)


def test_the_adapter_among_several_is_named(bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["llama"]
    one = write_adapter(tmp_path / "one", base, {})
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    two = write_adapter(tmp_path / "two", base, {name: torch.full((64, 4), float("nan"))})
    run = open_run(one, base=str(base), adapters=(str(two),))
    with pytest.raises(WeightError, match=r"two/adapter_model.safetensors: .*q_proj.lora_B.weight holds NaN"):
        finished(open_source(run))


def test_what_peft_merges_is_named_too(bases: dict[str, Path], tmp_path: Path) -> None:
    with quiet():
        model = peft.get_peft_model(
            load(bases["llama"]), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
        )
        model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = min(tensors)
    store(tmp_path, {name: torch.full_like(tensors[name], float("nan"))})
    with pytest.raises(WeightError, match=f"{name} holds NaN"):
        finished(source_of(tmp_path, bases["llama"]))


def test_the_base_is_blamed_for_its_own(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    run = write_adapter(tmp_path / "run", base, {})
    with pytest.raises(WeightError, match=r"^model.layers.0.self_attn.q_proj.weight: holds NaN or infinity"):
        write(run, base, tmp_path / "out")


def test_a_record_is_valid_json_whatever_it_holds(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    Path(os.fsdecode(os.fsencode(base) + b"/LICENSE\xff")).write_bytes(b"a\0b")
    large = {name: torch.full_like(tensor, 1e12) for name, tensor in PAIR.items()}
    fields = {"peft_version": "\ud800", "exclude_modules": ["\ud800"], "modules_to_save": ["\ud800"]}
    run = write_adapter(tmp_path / "run", base, large, **fields)
    write(run, base, tmp_path / "out", dtype="f32")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    said = json.loads((tmp_path / "out" / "merge.json").read_bytes(), parse_constant=refuse)
    assert said["adapters"][0]["settings"]["peft_version"] == "\ud800"
    assert said["not_copied"] == [os.fsdecode(b"LICENSE\xff")]
    q = "model.layers.0.self_attn.q_proj.weight"
    before = load_file(base / "model.safetensors")[q].double()
    change = load_file(tmp_path / "out" / "model.safetensors")[q].double() - before
    assert said["merge"]["largest_relative_delta"] == pytest.approx(float(change.norm() / before.norm()))
    checked = check_merge(open_run(run, base=str(base)), source_of(run, base), lambda *_: None)
    assert (checked["status"], checked["weights"][0]["delta"]) == ("pass", pytest.approx(float(change.norm())))
