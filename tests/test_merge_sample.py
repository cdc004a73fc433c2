"""What `ggufx merge --check` compares, how it says so, and that nothing compared is never a pass."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import load, one_thread, source_of, store, train, write_adapter
from click.testing import CliRunner, Result
from exported import change_json
from safetensors.torch import load_file, save_file
from tiny import make

from converters.spec import EMBEDDING, HEAD
from exporter.cli import cli
from exporter.errors import ProofError
from exporter.merge.coverage import in_order
from exporter.merge_check import check_merge, require_passed
from exporter.merge_check.sample import choose
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["one_thread"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BIAS = "base_model.model.model.layers.0.self_attn.q_proj.bias"
PAIR = ("lora_A", "lora_B")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in ("llama", "llama-bias", "qwen2", "mixtral")}


def deep(folder: Path, layers: int) -> Path:
    """A tiny llama of so many layers, all with the weights of its first."""
    make("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    first = {name: tensor for name, tensor in tensors.items() if ".layers.0." in name}
    for layer in range(1, layers):
        tensors |= {name.replace(".layers.0.", f".layers.{layer}."): tensor.clone() for name, tensor in first.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", num_hidden_layers=layers)
    return folder


def check(adapter: Path, base: Path, **asked: Any) -> dict[str, Any]:  # noqa: ANN401  (of open_run)
    run = open_run(adapter, base=str(base), **asked)
    return check_merge(run, open_source(run), lambda *_: None)


def older(stored: dict[str, torch.Tensor], experts: int) -> dict[str, torch.Tensor]:
    """Pairs of fused experts as PEFT 0.18 saved them: each factor is the other's, turned, expert by expert."""
    pairs: dict[str, torch.Tensor] = {}
    for name, a in stored.items():
        if "lora_A" in name:
            other = name.replace("lora_A", "lora_B")
            b = stored[other]
            pairs[name] = torch.cat([b[:, expert::experts].T for expert in range(experts)]).contiguous()
            by_rank = torch.stack(a.chunk(experts), dim=2)  # (rank, columns, experts)
            pairs[other] = by_rank.transpose(0, 1).reshape(a.shape[1], -1).contiguous()
    return pairs


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, ["merge", *map(str, words), "--check", "--quiet"])


def test_each_rank_and_alpha_is_compared(tmp_path: Path) -> None:
    """The only modules of their rank and of their alpha lie where neither the first nor the last of a kind does."""
    base = deep(tmp_path / "base", 5)
    patterns = {"rank_pattern": {"layers.2.self_attn.q_proj": 2}, "alpha_pattern": {r"layers\.3\.mlp\.up_proj": 5}}
    run = train(load(base), tmp_path / "run", target_modules=LINEAR, **patterns)
    found = check(run, base)
    compared = {one["weight"] for one in found["compared"]}
    assert {"model.layers.2.self_attn.q_proj.weight", "model.layers.3.mlp.up_proj.weight"} <= compared
    assert len(compared) == 8
    assert found["remarks"] == []
    ranks = {f"layers.{layer}.self_attn.{name}": 5 + layer for layer in range(5) for name in ("q_proj", "k_proj")}
    ranks |= {f"layers.{layer}.mlp.{name}": 10 + layer for layer in range(5) for name in ("up_proj", "down_proj")}
    run = train(load(base), tmp_path / "more", target_modules=LINEAR, rank_pattern=ranks)
    found = check(run, base)
    assert found["remarks"] == ["compared are 6 of 11 pairs of rank and alpha"]


def test_kinds_come_before_ranks(bases: dict[str, Path], tmp_path: Path) -> None:
    ranks = {f"layers.1.{name}": 2 for name in ("self_attn.q_proj", "mlp.up_proj")}
    saved = ["lm_head", "norm", "input_layernorm"]
    train(load(bases["llama"]), tmp_path, target_modules=LINEAR, rank_pattern=ranks, modules_to_save=saved)
    source = source_of(tmp_path, bases["llama"])
    names = sorted(source.changes.by_weight, key=in_order)
    chosen = choose(source, open_run(tmp_path, base=str(bases["llama"])).adapters, names)
    assert (len(chosen.weights), chosen.pairs, chosen.all_pairs) == (11, 2, 2)


def test_the_text_begins_with_the_result_and_shows_the_largest_changes(tmp_path: Path) -> None:
    base = deep(tmp_path / "base", 11)
    train(load(base), tmp_path / "run", target_modules=["q_proj", "o_proj"], modules_to_save=["lm_head"])
    shown = command(tmp_path / "run", "--base", base)
    assert shown.exit_code == 0
    result, kinds, rows, compared, legend = shown.stdout.split("\n\n")
    assert legend.startswith("‖·‖ is the Frobenius norm")
    assert len(compared.splitlines()) == 1 + 5
    pattern = r"self_attn.q_proj +11 of 11 +11 of 11 +(\S+) \.\. (\S+) +2$"
    least, most = (float(number) for number in re.findall(pattern, kinds, re.MULTILINE)[0])
    document = json.loads(command(tmp_path / "run", "--base", base, "--json").stdout)
    relative = [one["relative"] for one in document["weights"] if "q_proj" in one["weight"]]
    assert (least, most) == pytest.approx((min(relative), max(relative)), rel=1e-2)
    assert re.search(r"^mlp.up_proj +0 of 11 +0 of 11 +- +0$", kinds, re.MULTILINE)
    words = r"with PEFT: 5 of 23 changed weights, largest difference (0|\S+, where \S+ is allowed)$"
    assert re.search(words, result, re.MULTILINE)
    assert result.startswith("merge: pass\n23 weights changed, ")
    largest = sorted(document["weights"], key=lambda one: -one["relative"])[:10]
    assert [line.split()[0] for line in rows.splitlines()[1:]] == [one["weight"] for one in largest]
    assert rows.startswith("the 10 that changed most (--json: all 23)")
    names = [*document["untouched"], *(one["weight"] for one in document["weights"])]
    assert sorted(names) == sorted(source_of(tmp_path / "run", base).shapes())
    assert document["untouched"][0] == EMBEDDING


BIASES = tuple(
    (BIAS.replace(".bias", ending), fields)
    for ending in (".bias", ".base_layer.bias")
    for fields in ({"bias": "all"}, {"modules_to_save": ["layers.0.self_attn.q_proj"]})
)


@pytest.mark.parametrize("case", BIASES)
def test_biases_alone_are_compared(
    case: tuple[str, dict[str, Any]], bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fields = case
    nothing = {f"{BIAS.removesuffix('bias')}{half}.weight": None for half in PAIR}
    tensors = {**nothing, name: torch.linspace(-1, 1, 64)}
    write_adapter(tmp_path, bases["llama-bias"], tensors, target_modules=["q_proj"], **fields)
    found = check(tmp_path, bases["llama-bias"])
    assert [(one["weight"], one["status"]) for one in found["compared"]] == [
        ("model.layers.0.self_attn.q_proj.bias", "pass")
    ]
    assert found["status"] == "pass"
    from exporter.merge import layer  # noqa: PLC0415

    right = layer.Layer._sum
    monkeypatch.setattr(layer.Layer, "_sum", lambda *given: right(*given) * 1.001)
    wrong = check(tmp_path, bases["llama-bias"])
    assert wrong["status"] == "fail"
    with pytest.raises(ProofError, match=r"q_proj.bias differs by 0.001, allowed are"):
        require_passed(wrong)


@pytest.mark.parametrize("old", [False, True])
def test_experts_in_another_form_are_compared(*, old: bool, bases: dict[str, Path], tmp_path: Path) -> None:
    run = train(load(bases["mixtral"]), tmp_path, r=3, target_modules=[], target_parameters=EXPERTS)
    stored = load_file(run / "adapter_model.safetensors")
    if old:
        store(run, older(stored, 4))
        change_json(run / "adapter_config.json", peft_version="0.18.1")
    else:
        grouped = {name: b for name, b in stored.items() if "lora_B" in name}
        store(run, {name: b.reshape(len(b), 3, -1).transpose(1, 2).reshape(b.shape) for name, b in grouped.items()})
        change_json(run / "adapter_config.json", lora_B_layout="grouped_by_expert")
    found = check(run, bases["mixtral"])
    require_passed(found)
    said = (
        "lora_A and lora_B were exchanged" if old else "lora_B was grouped_by_expert, PEFT was given it as rank_major"
    )
    assert {(one["status"], one["detail"][: len(said)]) for one in found["compared"]} == {("pass", said)}


def test_nothing_compared_is_no_proof(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.merge_check.comparison.MOST", 100)
    run = write_adapter(tmp_path, bases["llama"], {})
    found = check(run, bases["llama"])
    assert found["status"] == "unproved"
    (remark,) = found["remarks"]
    assert re.fullmatch(r"no self_attn.q_proj was compared with PEFT's layer: .* too many to build it whole", remark)
    shown = command(run, "--base", bases["llama"])
    assert shown.stdout.splitlines()[0] == "merge: unproved"
    assert "compared with PEFT: none of 1 changed weights, so nothing is proved: " in shown.stdout
    words = ["merge", str(run), "--base", str(bases["llama"]), "--check", "--quiet"]
    assert cli.main(words, standalone_mode=False) == 1  # which `main` ends with


def test_a_kind_that_was_not_compared_is_told(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.merge_check.comparison.MOST", 64 * 64)
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj", "up_proj"])
    found = check(tmp_path, bases["llama"])
    assert found["status"] == "pass"
    assert [text.split(":")[0] for text in found["remarks"]] == ["no mlp.up_proj was compared with PEFT's layer"]


def test_a_bias_is_compared_with_all_that_changes_its_layer(bases: dict[str, Path], tmp_path: Path) -> None:
    """One adapter trains weight and bias, the other the weight alone: PEFT's layer of the bias has not both."""
    base = bases["llama-bias"]
    train(load(base), tmp_path / "one", target_modules=["q_proj"], lora_bias=True)
    train(load(base), tmp_path / "two", target_modules=["q_proj"])
    found = check(tmp_path / "one", base, adapters=(str(tmp_path / "two"),))
    require_passed(found)
    assert {one["status"] for one in found["compared"]} == {"pass"}
    assert {one["weight"].rpartition(".")[2] for one in found["compared"]} == {"weight", "bias"}


def test_a_head_over_trained_tokens_is_compared(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["qwen2"]), tmp_path, target_modules=["lm_head"], trainable_token_indices=[1, 5])
    found = check(tmp_path, bases["qwen2"])
    require_passed(found)
    assert {(one["weight"], one["status"]) for one in found["compared"]} == {(EMBEDDING, "pass"), (HEAD, "pass")}


def test_a_head_that_only_the_adapter_holds_is_checked(bases: dict[str, Path], tmp_path: Path) -> None:
    """The base alone is incomplete, and is not opened without the adapter."""
    train(load(bases["llama"]), tmp_path / "run", target_modules=["q_proj"], modules_to_save=["lm_head"])
    base = make("llama", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    require_passed(check(tmp_path / "run", base))
