"""Adapters as an export reads them: every PEFT method as a view by rows, and several adapters one over the other."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    adapted,
    by_our_names,
    finished,
    in_slices,
    largest_excess,
    load,
    merged,
    one_thread,
    quiet,
    store,
    train,
)
from exported import change_json
from peft_cases import CASES, IDS, adapters, by_peft
from peft_cases import bases as peft_bases
from peft_cases import train as train_other
from safetensors.torch import load_file
from tiny import make

from exporter import Options, export, load_profile
from exporter.errors import MergeError, OutputError, RunError
from exporter.merge import Merged
from exporter.run import open_run
from exporter.source import open_source

__all__ = ["adapters", "one_thread"]
bases = peft_bases


def view(run: Path, base: Path, *more: str) -> Merged:
    return open_source(open_run(run, base=str(base), adapters=more))


@pytest.mark.parametrize("name", CASES)
def test_every_method_by_rows_equals_peft(name: str, bases: dict[str, Path], adapters: Callable[[str], Path]) -> None:
    base = bases[CASES[name].base]
    source = view(adapters(name), base)
    expected = by_peft(base, adapters(name))[1]
    before = by_our_names(load(base).state_dict())
    assert largest_excess(finished(source), by_our_names(expected), before) <= 1
    by_rows = CASES[name].method == "TRAINABLE_TOKENS"
    assert by_rows or any("merged by PEFT, a whole weight at a time" in note for note in source.notes)
    assert sum(delta.change > 0 for delta in source.deltas().values()) > 0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("llama") / "base")


def summed(base: Path, parts: list[tuple[Path, float]]) -> dict[str, torch.Tensor]:
    """The base, and what PEFT adds of each adapter, times its factor."""
    before = by_our_names(load(base).state_dict())
    total = {name: tensor.double() for name, tensor in before.items()}
    for adapter, weight in parts:
        for name, tensor in merged(load(base), adapter).items():
            total[name] = total[name] + weight * (tensor.double() - before[name].double())
    return {name: tensor.float() for name, tensor in total.items()}


def test_several_adapters_add_up(llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj", "up_proj"])
    two = train(load(llama), tmp_path / "two", target_modules=["q_proj", "v_proj"], r=2, use_rslora=True)
    three = train_other(CASES["loha"], llama, tmp_path / "three")
    source = view(one, llama, f"{two}:0.5", f"{three}:-0.25")
    expected = summed(llama, [(one, 1.0), (two, 0.5), (three, -0.25)])
    before = by_our_names(load(llama).state_dict())
    assert largest_excess(finished(source), expected, before) <= 4  # three roundings instead of one
    assert source.changes.tensors == sum(layer.changes.tensors for layer in source.layers)
    assert [layer.weight for layer in source.layers] == [1.0, 0.5, -0.25]


def test_an_adapter_over_a_full_model_needs_no_run_of_its_own(llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj"])
    source = open_source(open_run(llama, adapters=(f"{one}",)))
    assert largest_excess(finished(source), merged(load(llama), one), by_our_names(load(llama).state_dict())) <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, r"replaces or multiplies .*q_proj.*which .* changes too"),
        ({"modules_to_save": ["q_proj"], "target_modules": ["v_proj"]}, r"replaces or multiplies .*q_proj"),
    ],
)
def test_what_does_not_add_up_is_refused(fields: dict[str, object], message: str, llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj"])
    two = train(load(llama), tmp_path / "two", **({"target_modules": ["q_proj"]} | fields))
    with pytest.raises(MergeError, match=rf"--adapter .*two: {message}|{message}.* --adapter .*two changes too"):
        view(one, llama, str(two))
    with pytest.raises(MergeError, match=r"--adapter .*two: has the factor 0.5, but it replaces or multiplies"):
        view(two, llama, f"{train(load(llama), tmp_path / 'three', target_modules=['up_proj'])}") and view(
            one, llama, f"{two}:0.5"
        )


@pytest.mark.parametrize(("name", "message"), [("nowhere", "there is no such folder"), ("base", "holds no adapter")])
def test_an_adapter_that_is_none_is_refused(name: str, message: str, llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj"])
    with pytest.raises(RunError, match=message):
        view(one, llama, str(llama.with_name(name)))
    with pytest.raises(RunError, match=r"--adapter .*: the factor is 'x', expected a number"):
        view(one, llama, f"{one}:x")


def test_an_adapter_that_is_given_twice_is_told(llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj"])
    told = open_run(one, base=str(llama), adapters=(f"{tmp_path / 'one'}:0.5",)).warnings
    assert any("one: was given more than once" in text for text in told)
    assert open_run(one, base=str(llama)).warnings == ()


REPLICATION = [[0, 2], [0, 1], [1, 2]]


def test_replicated_layers_equal_peft(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj", "up_proj"], layer_replication=REPLICATION)
    opened = open_run(run, base=str(base))
    assert opened.config["num_hidden_layers"] == 4
    # PEFT's merge adds what it has for a layer to all that share its weights; the live adapter is the truth.
    with quiet(), torch.no_grad():
        live = adapted(load(base), run)(IDS).logits
        model = load(base)
        config = deepcopy(model.config)
        config.num_hidden_layers = 4
        model = type(model)(config).eval()
        model.load_state_dict(finished(open_source(opened)))
        assert float((model(IDS).logits - live).abs().max()) < 1e-4 * float(live.std())
    change_json(run / "adapter_config.json", layer_replication=[[0, 3]])
    with pytest.raises(RunError, match=r"layer_replication .* the base has 2 layers"):
        open_run(run, base=str(base))


def test_zero_products_among_others_are_named(llama: Path, tmp_path: Path) -> None:
    run = train(load(llama), tmp_path / "run", target_modules=["q_proj", "v_proj"])
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    store(run, {key: torch.zeros(32, 4)})
    source = view(run, llama)
    for name, shape in source.shapes().items():
        for start, stop in in_slices(shape[0], 64):
            source.read(name, start, stop)
    zero = [name for name, delta in source.deltas().items() if delta.change == 0]
    assert zero == ["model.layers.1.self_attn.v_proj.weight"]
    with quiet():
        assert merged(load(llama), run)[zero[0]].equal(by_our_names(load(llama).state_dict())[zero[0]])


def test_each_adapter_and_its_factor_are_in_the_report(llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj"])
    two = train_other(CASES["loha"], llama, tmp_path / "two")

    def exported(quant: str, factor: str) -> dict[str, Any]:
        options = Options(base=str(llama), adapters=(f"{two}:{factor}",), verify=False, threads=1)
        document, _ = export(
            str(one), [load_profile(quant)], tmp_path / "out", options=options, progress=lambda *_: None
        )
        return dict(document)

    document = exported("q8_0", "0.5")
    assert [(part["method"], part["weight"]) for part in document["run"]["adapters"]] == [("lora", 1.0), ("loha", 0.5)]
    assert document["merge"]["used"] == document["merge"]["adapter_tensors"] == 4 + 6 * 4
    assert any("LOHA is merged by PEFT" in note for note in document["run"]["notes"])
    with pytest.raises(OutputError, match="holds q8_0 of another run, or of this one made otherwise"):
        exported("q4_0", "0.25")


EMBEDDED = (
    ("llama", {"target_modules": ["embed_tokens"]}, {"target_modules": ["embed_tokens", "q_proj"]}),
    ("llama", {"target_modules": ["lm_head"]}, {"target_modules": ["lm_head"]}),
    ("qwen2", {"target_modules": ["embed_tokens"]}, {"target_modules": ["lm_head"]}),
)


@pytest.mark.parametrize(("name", "first", "second"), EMBEDDED)
def test_two_adapters_of_an_embedding_add_up(
    name: str, first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    base = make(name, tmp_path / "base")
    one, two = train(load(base), tmp_path / "one", **first), train(load(base), tmp_path / "two", **second)
    found = finished(view(one, base, f"{two}:-0.5"))
    before = by_our_names(load(base, untied=True).state_dict())
    expected = {key: tensor.double() for key, tensor in before.items()}
    for adapter, weight in ((one, 1.0), (two, -0.5)):
        for key, tensor in merged(load(base, untied=True), adapter).items():
            expected[key] = expected[key] + weight * (tensor.double() - before[key].double())
    assert largest_excess(found, {key: tensor.float() for key, tensor in expected.items()}, before) <= 4


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("layers.1.self_attn.q_proj", r"no tensors of model\.layers\.1\.self_attn\.q_proj"),
        (".v_proj.", "holds nothing of v_proj, which target_modules"),
    ],
)
@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_an_incomplete_adapter_of_any_method_is_refused(
    method: str, taken: str, message: str, request: pytest.FixtureRequest
) -> None:
    llama, tmp_path = request.getfixturevalue("llama"), request.getfixturevalue("tmp_path")
    run = train_other(CASES[method], llama, tmp_path / "run")
    stored = load_file(run / "adapter_model.safetensors")
    store(run, {name: None for name in stored if taken in name})
    with pytest.raises(MergeError, match=message):
        view(run, llama)


@pytest.mark.parametrize(
    ("fields", "name"), [({"trainable_token_indices": [3]}, "3"), ({"modules_to_save": ["lm_head"]}, "lm_head")]
)
def test_what_is_listed_as_trained_must_be_there(
    fields: dict[str, Any], name: str, llama: Path, tmp_path: Path
) -> None:
    run = train(load(llama), tmp_path / "run", target_modules=["q_proj"])
    change_json(run / "adapter_config.json", **fields)
    with pytest.raises(MergeError, match=rf"holds nothing of .*{name}.*adapter_config\.json names as trained"):
        view(run, llama)


def test_a_message_names_the_option_that_gave_the_adapter(llama: Path, tmp_path: Path) -> None:
    one = train(load(llama), tmp_path / "one", target_modules=["q_proj"])
    two = train(load(llama), tmp_path / "two", target_modules=["q_proj"])
    change_json(two / "adapter_config.json", r=5)
    with pytest.raises(MergeError, match=r"^--adapter .*two: .*adapter_model\.safetensors: .* has rank 4"):
        view(one, llama, str(two))
    with pytest.raises(MergeError, match=r"^(?!--adapter).*adapter_model\.safetensors: .* has rank 4"):
        view(two, llama)
