"""`ggufx merge --check`: a right merge passes beside PEFT's live layers, a wrong one does not."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapters import by_our_names, finished, largest_excess, load, merged, one_thread, quiet, source_of, store, train
from exported import COMMAND
from report_document import top
from safetensors.torch import load_file
from tiny import make

from converters.spec import EMBEDDING
from exporter.errors import ProofError
from exporter.merge.coverage import coverage, kind_of, missed_experts
from exporter.merge_check import check_merge, require_passed
from exporter.pipeline import Options, prepare
from exporter.report.compose import export_blocks, merge_block
from exporter.report.document import check_document
from exporter.report.markdown import render_markdown
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["one_thread"]
NAMES = ("llama", "llama-bias", "qwen2", "gemma3-vision", "mixtral", "qwen3moe-fused")
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LINEAR = ["q_proj", "o_proj", "gate_proj", "down_proj"]
TEXT_ONLY = {"exclude_modules": ".*vision.*"}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in NAMES}


def check(adapter: Path, base: Path) -> dict[str, Any]:
    run = open_run(adapter, base=str(base))
    return check_merge(run, open_source(run), lambda *_: None)


def over(base: Path, *adapters: str) -> dict[str, Any]:
    """The check of adapters with factors over a base."""
    run = open_run(base, adapters=adapters)
    return check_merge(run, open_source(run), lambda *_: None)


def train_by(config: Any, base: Path, folder: Path) -> None:  # noqa: ANN401  (PEFT has no types)
    """An adapter of any method as PEFT saves it, every trained parameter moved at random."""
    with quiet():
        model = peft.get_peft_model(load(base), config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for one in model.parameters():
                if one.requires_grad:
                    one.add_(0.1 * torch.randn(one.shape, generator=generator))
        model.save_pretrained(folder)


CHECKED: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("llama", {"target_modules": LINEAR, "use_rslora": True, "rank_pattern": {"q_proj": 2}}, 8),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}, 8),
    ("llama-bias", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}, 8),
    ("llama-bias", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}, 8),
    ("llama-bias", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only", "lora_bias": True}, 8),
    ("llama-bias", {"target_modules": ["q_proj", "v_proj"], "bias": "all", "lora_bias": True}, 8),
    ("llama-bias", {"target_modules": ["q_proj"], "modules_to_save": ["v_proj", "norm"], "lora_bias": True}, 8),
    ("qwen2", {"target_modules": ["q_proj", "embed_tokens"]}, 4),
    ("qwen2", {"target_modules": LINEAR, "use_dora": True, "trainable_token_indices": [1, 5]}, 8),
    ("qwen2", {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "use_dora": True}, 4),
    ("gemma3-vision", {"target_modules": LINEAR, **TEXT_ONLY}, 8),
    ("mixtral", {"target_modules": ["o_proj"], "target_parameters": EXPERTS, "alpha_pattern": {"down_proj": 3}}, 26),
    ("qwen3moe-fused", {"target_modules": ["o_proj"], "target_parameters": EXPERTS[1:]}, 10),
)


@pytest.mark.parametrize("case", CHECKED)
def test_a_right_merge_passes(case: tuple[str, dict[str, Any], int], bases: dict[str, Path], tmp_path: Path) -> None:
    name, fields, count = case
    train(load(bases[name]), tmp_path, **fields)
    found = check(tmp_path, bases[name])
    require_passed(found)
    states = [one["status"] for one in found["compared"]]
    assert (states.count("pass"), len(states), found["status"]) == (count, count, "pass")
    source = source_of(tmp_path, bases[name])
    assert {one["weight"] for one in found["weights"]} | set(found["untouched"]) == set(source.shapes())
    for one in found["weights"]:
        shape = source.shapes()[one["weight"]]
        after = source.read(one["weight"], 0, shape[0])
        assert one["relative"] == pytest.approx(one["delta"] / one["norm"])
        assert abs(float(after.norm()) - one["norm"]) <= one["delta"] * 1.001


OTHER: tuple[tuple[str, dict[str, Any], set[str]], ...] = (
    ("LoHaConfig", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, {"merged by PEFT", "replaced"}),
    ("IA3Config", {"target_modules": ["q_proj", "o_proj"], "feedforward_modules": []}, {"merged by PEFT"}),
    ("VeraConfig", {"target_modules": ["q_proj", "o_proj"]}, {"merged by PEFT"}),
    ("TrainableTokensConfig", {"token_indices": [3, 9], "target_modules": ["embed_tokens"]}, {"rows replaced"}),
)


@pytest.mark.parametrize("case", OTHER, ids=lambda case: case[0])
def test_another_method_passes(
    case: tuple[str, dict[str, Any], set[str]], bases: dict[str, Path], tmp_path: Path
) -> None:
    method, fields, how = case
    train_by(getattr(peft, method)(**fields), bases["llama"], tmp_path / "run")
    found = check(tmp_path / "run", bases["llama"])
    require_passed(found)
    assert {one["how"] for one in found["weights"]} == how
    assert {one["status"] for one in found["compared"]} == {"pass"}


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_wrong_merge_fails(
    name: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"target_parameters": EXPERTS} if name == "mixtral" else {}
    train(load(bases[name]), tmp_path, target_modules=["o_proj"], **fields)
    from exporter.merge import layer  # noqa: PLC0415

    right = layer._product
    monkeypatch.setattr(layer, "_product", lambda *given: right(*given).mul_(1.001))
    found = check(tmp_path, bases[name])
    assert found["status"] == "fail"
    assert {one["status"] for one in found["compared"]} == {"fail"}
    with pytest.raises(ProofError, match=r"weights are not as PEFT's layer has them: .* differs by .*, allowed are"):
        require_passed(found)


def test_a_wrong_alpha_is_seen(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["o_proj", "q_proj"], alpha_pattern={"q_proj": 3})
    from exporter.merge import changes  # noqa: PLC0415

    monkeypatch.setattr(changes, "rank_and_scale", lambda *_: (4, 2.0))
    found = {one["weight"].split(".")[-2]: one["status"] for one in check(tmp_path, bases["llama"])["compared"]}
    assert found == {"o_proj": "pass", "q_proj": "fail"}


def test_a_change_of_nothing_is_told(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj", "o_proj"])
    b = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    found = check(store(tmp_path, {b: torch.zeros(64, 4)}), bases["llama"])
    (remark,) = found["remarks"]
    assert remark.startswith("1 of the weights that the adapter names are as before")
    assert "model.layers.1.self_attn.o_proj.weight" in remark
    row = next(row for row in found["coverage"] if row["kind"] == "self_attn.o_proj")
    assert (row["changed"], row["weights"], row["layers_changed"], row["layers"]) == (1, 2, 1, 2)


def test_experts_that_were_missed_are_told(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["mixtral"]), tmp_path, target_modules=["q_proj"])
    (remark,) = check(tmp_path, bases["mixtral"])["remarks"]
    assert remark.startswith("The model has experts (block_sparse_moe.experts.w1, ")
    names = [f"model.layers.{i}.mlp.experts.{e}.up_proj.weight" for i in range(12) for e in range(3)]
    names += [EMBEDDING, "model.norm.weight", *(f"model.layers.{i}.self_attn.q_proj.bias" for i in range(12))]
    rows = coverage(names, [names[4], names[5], names[35]])
    assert rows[0].kind == "embed_tokens"
    up = next(row for row in rows if row.experts)
    assert (up.kind, up.changed, up.weights, up.layers_changed, up.layers) == ("mlp.experts.up_proj", 3, 36, 2, 12)
    assert missed_experts(rows) is None
    assert missed_experts(coverage(names, [EMBEDDING])) is not None
    assert missed_experts(coverage(names, [])) is None
    assert kind_of("model.layers.3.self_attn.q_proj.bias") == "self_attn.q_proj.bias"


def test_a_failed_check_ends_with_status_2(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj"])
    wrong = "import exporter.merge.layer as m; f = m._product; m._product = lambda *a: f(*a) * 1.01; "
    code = [COMMAND[0], "-c", wrong + "from exporter.cli import main; main()"]
    done = subprocess.run(
        [*code, "merge", tmp_path, "--base", bases["llama"], "--check", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == "merge: fail"
    assert "are not as PEFT's layer has them" in done.stderr


def test_several_adapters_with_factors_pass(bases: dict[str, Path], tmp_path: Path) -> None:
    for name, targets in (("one", ["q_proj", "o_proj"]), ("two", ["q_proj", "up_proj"])):
        train(load(bases["llama"]), tmp_path / name, target_modules=targets, use_rslora=name == "two")
    run = open_run(tmp_path / "one", base=str(bases["llama"]), adapters=(f"{tmp_path / 'two'}:0.25",))
    found = check_merge(run, open_source(run), lambda *_: None)
    require_passed(found)
    assert len(found["adapters"]) == 2
    assert {one["weight"].split(".")[4]: one["how"] for one in found["weights"]} == {
        "o_proj": "added",
        "q_proj": "added, then added",
        "up_proj": "added",
    }


@pytest.mark.parametrize("case", [("LoHaConfig", -0.7), ("VeraConfig", 7), ("DeloraConfig", -3)])
def test_a_factor_of_a_method_that_peft_merges_is_checked(
    case: tuple[str, float], bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, (method, factor) = bases["llama"], case
    train_by(getattr(peft, method)(target_modules=["q_proj", "down_proj"]), base, tmp_path)
    require_passed(over(base, f"{tmp_path}:{factor}"))
    before, alone = (by_our_names(load(base).state_dict()), merged(load(base), tmp_path))
    expected = {name: before[name] + factor * (tensor - before[name]) for name, tensor in alone.items()}
    source = open_source(open_run(base, adapters=(f"{tmp_path}:{factor}",)))
    assert largest_excess(finished(source), expected, before) <= 1
    from exporter.merge import layer  # noqa: PLC0415

    right = layer.Layer._of_whole
    monkeypatch.setattr(layer.Layer, "_of_whole", lambda *given: right(*given) * 1.001)
    assert over(base, f"{tmp_path}:{factor}")["status"] == "fail"


def test_a_factor_of_an_embedding_is_checked(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["embed_tokens", "q_proj"])
    copies = {"base_model.model.model.embed_tokens.base_layer.weight": None, "base_model.model.lm_head.weight": None}
    found = over(bases["llama"], f"{store(tmp_path, copies)}:0.25")
    require_passed(found)
    assert {one["weight"]: one["status"] for one in found["compared"]}[EMBEDDING] == "pass"


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("start", ["", "base_model.model.base_model.model.", "module.base_model.model."])
def test_names_of_other_programs_are_compared_too(
    name: str, start: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    fields = {"target_parameters": EXPERTS} if name == "mixtral" else {}
    train(load(bases[name]), tmp_path, target_modules=["o_proj"], alpha_pattern={"o_proj": 3}, **fields)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {start + key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    found = check(store(tmp_path, dict.fromkeys(tensors) | renamed), bases[name])
    require_passed(found)
    assert {one["status"] for one in found["compared"]} == {"pass"}


def test_a_rounded_base_is_compared_as_it_is_rounded(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj"])
    run = open_run(tmp_path, base=str(bases["llama"]), qlora_base="nf4")
    require_passed(check_merge(run, open_source(run), lambda *_: None))


def test_the_report_says_which_kinds_changed(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["mixtral"]), tmp_path, target_modules=["o_proj"])
    source = source_of(tmp_path, bases["mixtral"])
    finished(source)
    block = merge_block(source)
    rows = {row["kind"]: row for row in block["coverage"]}
    assert rows["self_attn.o_proj"] == {
        "kind": "self_attn.o_proj",
        "changed": 2,
        "weights": 2,
        "layers_changed": 2,
        "layers": 2,
        "experts": False,
    }
    assert (rows["block_sparse_moe.experts.w1"]["changed"], rows["block_sparse_moe.experts.w1"]["weights"]) == (0, 8)
    run, source, plan = prepare(str(tmp_path), [], Options(base=str(bases["mixtral"]), verify=False))
    finished(source)
    fields = export_blocks(run, source, plan, {run.base: "", run.adapters[0].folder: ""})
    assert fields["warnings"][-1].startswith("The model has experts")
    text = render_markdown(check_document(top() | {"levels": [], "merge": block}, "report.json"))
    assert re.search(r"\| Kind of weight \| +Changed \| +In layers \|", text)
    assert re.search(r"`self_attn.o_proj` \| 2 of 2 \| 2 of 2 \|", text)
