"""Fields of adapter_config.json in forms that PEFT cannot read, and which modules the config trains: as PEFT has it."""

import json
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from adapters import (
    by_our_names,
    finished,
    largest_excess,
    load,
    merged,
    one_thread,
    quiet,
    source_of,
    train,
    write_adapter,
)
from exported import COMMAND, change_json
from peft_cases import CASES
from peft_cases import train as train_other
from tiny import make

from exporter.errors import MergeError
from exporter.merge.fields import OF_ALL, OF_LORA
from exporter.merge.lora import ALPHA, RANK, check_layer, check_target

__all__ = ["one_thread"]

WRONG: dict[str, list[object]] = {
    "alpha_pattern": [None, [], {"q_proj": "8"}, {"q_proj": True}, 3],
    "base_model_name_or_path": [5, ["base"]],
    "bias": [None, "foo", True, ["all"], {}],
    "ensure_weight_tying": ["yes", 1],
    "exclude_modules": [5, [5], {"q_proj": 1}],
    "fan_in_fan_out": ["no"],
    "layers_pattern": [5, [None]],
    "layers_to_transform": ["0", [0.5], True, ["1"]],
    "lora_B_layout": [5, ["rank_major"]],
    "lora_alpha": [None, "8", True, [8], float("inf"), 10**400],
    "lora_bias": ["false"],
    "modules_to_save": ["lm_head", [5], 5],
    "peft_version": [0.21],
    "r": [None, "4", 0, -4, True, 4.0, 10**400],
    "rank_pattern": [None, [4], {"q_proj": -4}, {"q_proj": "4"}, {"q_proj": None}, "q_proj"],
    "target_modules": [5, [5], {"q_proj": 1}, False],
    "target_parameters": ["experts.down_proj", 5],
    "token_indices": ["3", [True]],
    "trainable_token_indices": [5, ["3"], {"embed_tokens": 3}],
    "use_dora": ["true", 1],
    "use_rslora": [{}],
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("llama") / "base")


def set_fields(run: Path, **fields: object) -> Path:
    """Set fields of an adapter's configuration, to null too."""
    file = run / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return run


def test_every_field_that_is_read_has_a_wrong_form() -> None:
    assert WRONG.keys() == {*OF_ALL, *OF_LORA}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_in_another_form_is_refused_by_name(name: str, value: object, llama: Path, tmp_path: Path) -> None:
    run = set_fields(write_adapter(tmp_path / "run", llama, {}), **{name: value})
    with pytest.raises(MergeError) as error:
        source_of(run, llama)
    expected = (OF_ALL | OF_LORA)[name].expected
    assert f"{run / 'adapter_config.json'}: {name} is {json.dumps(value)[:300]}" in str(error.value)
    assert f", expected {expected}. PEFT cannot load" in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ".*q_proj", "layers_to_transform": [0]},
        {"target_modules": ".*q_proj", "layers_pattern": "layers"},
        {"layers_pattern": "layers"},
        {"lora_bias": True, "use_dora": True},
    ],
)
def test_fields_that_peft_does_not_take_together_are_refused(
    fields: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig  # noqa: PLC0415  (seconds to import)

    with pytest.raises(ValueError, match=r"layers_|lora_bias"):
        LoraConfig(**fields)
    run = write_adapter(tmp_path / "run", llama, {}, **fields)
    with pytest.raises(MergeError, match=r"adapter_config\.json: .*, expected (a list|both|one of them).*PEFT cannot"):
        source_of(run, llama)


@pytest.mark.parametrize(
    ("name", "fields", "cause"),
    [
        ("loha", {"alpha": "8"}, "unsupported operand"),
        ("loha", {"r": None}, "NoneType"),
        ("loha", {"task_type": 5}, "Invalid task type"),
        ("loha", {"rank_pattern": [1]}, "expected an object"),
        ("waveft", {"wavelet_family": "none"}, "Wavelet family none not supported"),
        ("adalora", {"eva_config": 5}, "must be a `EvaConfig`"),
        ("ia3", {"feedforward_modules": 5}, "not iterable"),
        ("vera", {"projection_prng_key": 10**30}, "Overflow"),
        ("osf", {"rank_pattern": {"(": 3}}, "no regular expression"),
        ("loha", {"target_modules": 5}, "target_modules is 5, expected a list"),
    ],
)
def test_what_pefts_own_configuration_refuses_is_a_message(
    name: str, fields: dict[str, Any], cause: str, *, llama: Path, tmp_path: Path
) -> None:
    run = set_fields(train_other(CASES[name], llama, tmp_path / "run"), **fields)
    with pytest.raises(MergeError) as error:
        source_of(run, llama)
    assert "adapter_config.json" in str(error.value)
    assert cause in str(error.value)


def test_the_command_ends_with_status_2_and_no_traceback(llama: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "run", llama, {}, lora_alpha="8")
    done = subprocess.run([*COMMAND, "plan", str(run)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f'error: {run / "adapter_config.json"}: lora_alpha is "8", expected a number. PEFT cannot' in done.stderr


def test_a_long_list_is_shown_whole(llama: Path, tmp_path: Path) -> None:
    listed = [f"layers.{i}.self_attn.k_proj" for i in range(8)]
    run = write_adapter(tmp_path / "run", llama, {}, target_modules=listed)
    with pytest.raises(MergeError, match=r"layers\.7\.self_attn\.k_proj"):
        source_of(run, llama)
    change_json(run / "adapter_config.json", target_modules=[f"layers.{i}.self_attn.k_proj" for i in range(80)])
    with pytest.raises(MergeError, match=r"layers\.7\.self_attn\.k_proj.*\.\.\. \(\d+ characters\)"):
        source_of(run, llama)


@pytest.mark.parametrize("absent", [["r"], ["lora_alpha"], ["r", "lora_alpha"]])
def test_what_is_absent_has_pefts_default_and_a_note(absent: list[str], llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig  # noqa: PLC0415  (seconds to import)

    assert (LoraConfig().r, LoraConfig().lora_alpha) == (RANK, ALPHA)
    targets = ["q_proj", "o_proj"]
    train(load(llama), tmp_path, r=8, lora_alpha=3, target_modules=targets, rank_pattern={"o_proj": 2})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    left = {name: value for name, value in config.items() if name not in absent}
    (tmp_path / "adapter_config.json").write_text(json.dumps(left))
    source = source_of(tmp_path, llama)
    expected = merged(load(llama), tmp_path)
    assert largest_excess(finished(source), expected, by_our_names(load(llama).state_dict())) <= 1
    values = " and ".join(f"{name} 8" for name in absent)
    note = f"adapter_config.json has no {' and no '.join(absent)}: taken are PEFT's defaults, {values}"
    assert source.notes == (note,)


# Which modules the configuration trains

MODULES = (
    "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.experts.0.q_proj",
    "model.layers.10.self_attn.q_proj", "model.h.1.q_proj", "layers.1.q_proj", "h.1.attn.q_proj", "q_proj",
    "model.layers.q_proj", "model.blocks.0.layers.1.q_proj", "model.mlayers.1.q_proj",
    "model.layers.1.self_attn.v_proj",
)  # fmt: skip
LAYERS: tuple[object, ...] = (None, [], 1, [1], [0, 10], [7])
PATTERNS: tuple[object, ...] = (None, "", [], "layers", "h", ["h", "layers"], "(h|layers)", ".ayers", ["blocks"], [""])
TARGETS: tuple[object, ...] = (["q_proj"], ["model.layers.0.self_attn.q_proj", "attn.q_proj"], ["self_attn.q_proj"])
EXCLUDED: tuple[object, ...] = (None, [], ["layers.10.self_attn.q_proj"], r".*experts.*")


@pytest.mark.parametrize("targets", [*TARGETS, r".*\.q_proj"])
def test_the_modules_that_are_trained_are_pefts(targets: object) -> None:
    from peft import LoraConfig  # noqa: PLC0415  (seconds to import)
    from peft.tuners.tuners_utils import check_target_module_exists  # noqa: PLC0415

    listed = isinstance(targets, list)
    answers = set()
    for layers, pattern, excluded in product(LAYERS if listed else [None], PATTERNS if listed else [None], EXCLUDED):
        if pattern and layers is None:
            continue
        fields: dict[str, Any] = {"target_modules": targets, "exclude_modules": excluded}
        fields |= {"layers_to_transform": layers, "layers_pattern": pattern}
        with quiet():
            config = LoraConfig(**fields)
        for module in MODULES:
            expected = bool(check_target_module_exists(config, module))
            assert is_trained(fields, module) == expected, (fields, module)
            answers.add(expected)
    assert answers == {True, False}


def is_trained(config: dict[str, Any], module: str) -> bool:
    """Whether tensors of a module are taken, as far as these fields say."""
    try:
        check_layer(config, module, Path("adapter_model.safetensors"))
        check_target(config, module, Path("adapter_model.safetensors"))
    except MergeError:
        return False
    return True


def test_a_pattern_of_layers_that_may_take_for_ever_is_refused() -> None:
    config = {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "(a+)+"}
    with pytest.raises(MergeError, match=r"layers_pattern holds .* a regular expression that may take for ever"):
        check_layer(config, MODULES[0], Path("adapter_model.safetensors"))


def test_parameters_are_trained_in_layers_that_are_not_listed(tmp_path: Path) -> None:
    """PEFT finds parameters by target_parameters alone."""
    base = make("mixtral", tmp_path / "base")
    fields = {"target_modules": ["q_proj"], "layers_to_transform": [0], "target_parameters": ["experts.down_proj"]}
    run = train(load(base), tmp_path / "run", **fields)
    changed = set(source_of(run, base).changes.by_weight)
    assert {name.split(".")[2] for name in changed if ".experts." in name} == {"0", "1"}
    assert {name.split(".")[2] for name in changed if "q_proj" in name} == {"0"}


def test_ranks_decide_between_patterns_that_match_one_module(llama: Path, tmp_path: Path) -> None:
    first = {"o_proj": 2, r"layers\.1\.self_attn\.\w_proj": 3}  # PEFT goes by the first, and saves them sorted
    train(load(llama), tmp_path, target_modules=["q_proj", "o_proj"], rank_pattern=first)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert list(config["rank_pattern"]) == sorted(first) != list(first)
    found = finished(source_of(tmp_path, llama))
    change_json(tmp_path / "adapter_config.json", rank_pattern={"o_proj": 2, r"layers\.1\.self_attn\.q_proj": 3})
    expected = merged(load(llama), tmp_path)
    assert largest_excess(found, expected, by_our_names(load(llama).state_dict())) <= 1


def test_two_alphas_of_one_module_are_refused(llama: Path, tmp_path: Path) -> None:
    patterns = {"o_proj": 2, r"layers\.1\.self_attn\.\w_proj": 3}
    train(load(llama), tmp_path, target_modules=["q_proj", "o_proj"], alpha_pattern=patterns)
    message = r"alpha_pattern says 3 and 2 of model\.layers\.1\.self_attn\.o_proj: several of its patterns match"
    with pytest.raises(MergeError, match=message):
        source_of(tmp_path, llama)
    change_json(tmp_path / "adapter_config.json", alpha_pattern=dict.fromkeys(patterns, 3))
    expected = merged(load(llama), tmp_path)
    assert largest_excess(finished(source_of(tmp_path, llama)), expected, by_our_names(load(llama).state_dict())) <= 1
