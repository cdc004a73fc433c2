"""`--qlora-base nf4`: the base as bitsandbytes rounds it, bit for bit; what the rounding took, against the delta."""

import hashlib
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters import finished, load, one_thread, source_of, train, write_adapter
from exported import change_json, planned
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import make
from trainers import AXOLOTL, AXOLOTL_BODY, FACTORY, TORCHTUNE, cache, cached, card, write

from exporter import cli
from exporter.errors import MergeError, OutputError, RunError
from exporter.inspect import inspect_run, render
from exporter.merge.qlora import LayerError, by_layer, warning
from exporter.pipeline import Options, export
from exporter.profiles import load_profile
from exporter.report.numbers import plain
from exporter.run import open_run
from exporter.run.values import FourBit
from exporter.source import nf4, open_source
from exporter.source.nf4 import RoundTrip, dynamic, quantized, table_of
from exporter.source.qlora import quantized as rounded_weights

__all__ = ["cache", "one_thread"]
GOLDEN = Path(__file__).parent / "reference" / "nf4"
TRIPS = load_file(GOLDEN / "round_trip.safetensors")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DOUBLE = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
PEFT_LIST = "The following `bitsandbytes` quantization config was used during training:\n"


def cases() -> dict[str, Any]:
    with safe_open(GOLDEN / "round_trip.safetensors", framework="pt") as opened:
        found: dict[str, Any] = json.loads(opened.metadata()["cases"])
    return found


def trip(weight: torch.Tensor, kind: str = "nf4", *, nested: bool = True) -> RoundTrip:
    """The view over one weight, `x`, that is stored as it is given."""

    def read(_name: str, start: int, stop: int) -> torch.Tensor:
        return weight[start:stop].float()

    base: Any = SimpleNamespace(shapes=lambda: {"x": tuple(weight.shape)}, read=read, left_out=())
    return RoundTrip(base, {"x"}, FourBit(kind, nested))


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256((values + 0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", TRIPS)
def test_as_bitsandbytes_rounds(name: str) -> None:
    case = cases()[name]
    view = trip(TRIPS[name], case["kind"], nested=case["nested"])
    rows = TRIPS[name].shape[0]
    whole = view.read("x", 0, rows)
    assert whole.dtype == torch.float32
    assert whole[-1, :8].tolist() == case["first"]
    assert digest(whole) == case["sha256"]
    fresh = trip(TRIPS[name], case["kind"], nested=case["nested"])
    for start, stop in ((rows - 1, rows), (0, 1), (1, rows), (rows // 3, rows // 2 + 1), (3, rows + 9), (5, 5)):
        assert fresh.read("x", start, stop).equal(whole[start:stop]), (start, stop)


def test_scales_are_made_again_where_none_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, other = TRIPS["bf16"], TRIPS["bf16"].flip(0)
    whole, flipped = trip(weight).read("x", 0, 96), trip(other).read("x", 0, 96)
    read: Any = lambda name, start, stop: {"x": weight, "y": other}[name][start:stop].float()  # noqa: E731
    base: Any = SimpleNamespace(shapes=lambda: dict.fromkeys("xy", (96, 200)), read=read, left_out=())
    monkeypatch.setattr(nf4, "KEPT", 1)
    monkeypatch.setattr(nf4, "SLICE", 1)  # a pre-pass in slices of 64 rows
    monkeypatch.setattr(nf4, "PIECE", 1)
    view = RoundTrip(base, {"x", "y"}, FourBit())
    for rows in ((0, 40), (40, 96)):
        assert view.read("x", *rows).equal(whole[slice(*rows)])
        assert view.read("y", *rows).equal(flipped[slice(*rows)])


def test_what_is_no_linear_weight_is_as_stored() -> None:
    base: Any = SimpleNamespace(shapes=lambda: {"n": (4,)}, read=lambda *_: torch.arange(4.0), left_out=("a part",))
    view = RoundTrip(base, {"x"}, FourBit())
    assert view.read("n", 0, 4).tolist() == [0, 1, 2, 3]
    assert view.left_out == ("a part",)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_cells_find_what_a_search_finds(kind: str) -> None:
    table = table_of(kind)
    edges = torch.cat((table.middles, torch.arange(-nf4.CELLS, nf4.CELLS + 1) / nf4.CELLS))
    near = [edges]
    for towards in (2.0, -2.0):  # the floats next to each place where the answer changes
        step = edges
        for _ in range(20):
            step = torch.nextafter(step, torch.tensor(towards))
            near.append(step)
    numbers = torch.cat((*near, torch.linspace(-1, 1, 100_001))).clamp(-1, 1)
    assert table.nearest(numbers).equal(torch.bucketize(numbers, table.middles, out_int32=True))


def test_scales_of_many_blocks_do_not_depend_on_threads() -> None:
    maxima = torch.rand(200_000, generator=torch.Generator().manual_seed(3))
    torch.set_num_threads(4)
    four = nf4._nested(maxima)
    torch.set_num_threads(1)
    one = nf4._nested(maxima)
    assert one.mean.equal(maxima.mean())
    assert one.mean.equal(four.mean)
    assert one.codes.equal(four.codes)


def test_not_finite_stays_not_finite() -> None:
    for number in (torch.nan, torch.inf):
        weight = TRIPS["f32_aligned"].clone()
        weight[9, 9] = number
        assert not trip(weight, nested=False).read("x", 9, 10)[0, :64].isfinite().any()
        assert not trip(weight).read("x", 0, 64).isfinite().any()


def test_dynamic_type() -> None:
    values = dynamic().values
    assert values.shape == (256,)
    assert values.diff().min() > 0
    codes, largest = quantized(values[:128].clone(), dynamic(), 256)
    assert codes.dtype == torch.int32
    assert largest.tolist() == [-float(values[0])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("base"), dtype="bfloat16")


@pytest.fixture
def lora(tmp_path: Path, base: Path) -> Path:
    """A run with a plain LoRA adapter of some modules; nothing says that it was trained in 4 bits."""
    return write_adapter(tmp_path / "lora-run", base, {})


def test_live_qlora_layers(tmp_path: Path, base: Path) -> None:
    tensors = load_file(GOLDEN / "live.safetensors")
    with safe_open(GOLDEN / "live.safetensors", framework="pt") as opened:
        told = opened.metadata()
    assert told["model"] == "llama"
    run = write_adapter(tmp_path / "run", base, {})
    write(run / "adapter_config.json", json.loads(told["config"]) | {"base_model_name_or_path": str(base)})
    write(run / "config.json", {"quantization_config": json.loads(told["quantization"])})
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({k: v for k, v in tensors.items() if "lora" in k}, run / "adapter_model.safetensors")
    found = {}
    for choice in ("full", "nf4"):
        source = open_source(open_run(run, qlora_base=choice))
        model = load(base)
        model.load_state_dict(finished(source))
        with torch.no_grad():
            found[choice] = float((model(tensors["ids"]).logits - tensors["logits"]).abs().max())
    assert found["nf4"] < 1e-5 * float(tensors["logits"].abs().max())
    assert found["full"] > 1e3 * found["nf4"]


def test_rounded_weights_are_the_live_model_s(base: Path, lora: Path) -> None:
    with safe_open(GOLDEN / "live.safetensors", framework="pt") as opened:
        weights = json.loads(opened.metadata()["weights"])
    source = open_source(open_run(lora, qlora_base="nf4"))
    shapes = source.shapes()
    assert len(weights) == 2 * len(LINEAR)
    rounded = {f"{name}.weight" for name in weights}
    stored = load_file(base / "model.safetensors")
    for name, shape in shapes.items():
        rows = source._read(0, name, range(shape[0]))
        if name in rounded:
            assert digest(rows) == weights[name.removesuffix(".weight")], name
        else:
            assert rows.equal(stored[name].float()), name


def said(run: Path) -> FourBit:
    four_bit = open_run(run).four_bit
    assert four_bit is not None
    return four_bit


def test_nothing_says_four_bits(lora: Path) -> None:
    assert open_run(lora).four_bit is None
    write(lora / "README.md", card({}, "Trained from artidoro/qlora-data with load_in_4bit: False.\n"))
    assert open_run(lora).four_bit is None
    assert "qlora" not in inspect_run(str(lora))
    note = open_run(lora, qlora_base="nf4").notes[-1]
    assert "nf4 in blocks of 64" in note
    assert "QLoRA's own settings, for no file of the run has any" in note


PEFT_CARD = PEFT_LIST + "".join(
    f"- {key}: {value}\n"
    for key, value in {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"],
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
    }.items()
)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (("config.json", {"quantization_config": DOUBLE}), FourBit(said_by="lora-run/config.json")),
        (("config.json", {"quantization_config": {"load_in_4bit": True}}), FourBit("fp4", nested=False)),
        (("README.md", PEFT_CARD), FourBit("fp4", nested=False, skipped=("lm_head", "model.layers.1.mlp"))),
        (("README.md", AXOLOTL_BODY), FourBit()),
        (("README.md", "Fine-tuned with QLoRA.\n\n- Transformers 4.57.1\n"), FourBit(transformers=4)),
        (("config.yml", AXOLOTL), FourBit(said_by="config.yml")),
        (("config.yml", AXOLOTL | {"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}), FourBit(nested=False)),
        (("args.yaml", FACTORY | {"quantization_bit": 4}), FourBit(said_by="args.yaml")),
        (("args.yaml", FACTORY | {"quantization_bit": 4, "double_quantization": False}), FourBit(nested=False)),
        (
            ("trl.yaml", {"model_name_or_path": "org/Tiny-Llama", "dataset_name": "d", "load_in_4bit": True}),
            FourBit(nested=False),
        ),
    ],
    ids=[
        "config",
        "defaults",
        "peft",
        "axolotl-card",
        "words",
        "axolotl",
        "axolotl-plain",
        "factory",
        "factory-plain",
        "trl",
    ],
)
def test_settings_by_each_file(lora: Path, base: Path, told: tuple[str, object], expected: FourBit) -> None:
    file, content = told
    write(lora / file, content)
    run = open_run(lora, base=str(base))
    assert run.four_bit is not None
    found = run.four_bit
    for field in ("kind", "nested", "skipped", "transformers", "unknown"):
        assert getattr(found, field) == getattr(expected, field), field
    assert found.because in {file, f"{lora.name}/{file}"}
    if expected.said_by:
        assert found.said_by == expected.said_by
    assert planned(lora, "f16", base=str(base), qlora_base="nf4").notes


def test_settings_by_a_4_bit_name(cache: Path, lora: Path, base: Path) -> None:
    name = "unsloth/Tiny-Llama-bnb-4bit"
    change_json(lora / "adapter_config.json", base_model_name_or_path=name)
    run = open_run(lora, base=str(base), qlora_base="nf4")
    assert run.four_bit == FourBit(because="adapter_config.json")
    skipped = {"llm_int8_skip_modules": ["lm_head", "model.layers.0.self_attn", "model.layers.1.mlp.up_proj"]}
    write(cached(cache, name) / "config.json", {"quantization_config": DOUBLE | skipped})
    run = open_run(lora, base=str(base), qlora_base="nf4")
    assert f"as config.json of {name} says" in run.notes[-1]
    source, stored = open_source(run), load_file(base / "model.safetensors")
    left = {name for name, tensor in stored.items() if source._read(0, name, range(len(tensor))).equal(tensor.float())}
    linear = {name for name in stored if name.removesuffix(".weight").rpartition(".")[2] in LINEAR}
    expected = {name for name in linear if "0.self_attn" in name or name.endswith("1.mlp.up_proj.weight")}
    assert left & linear == expected


def test_a_dynamic_4_bit_name_without_its_list(cache: Path, lora: Path, base: Path) -> None:
    name = "unsloth/Tiny-Llama-unsloth-bnb-4bit"
    change_json(lora / "adapter_config.json", base_model_name_or_path=name)
    with pytest.raises(RunError, match=rf"the base was {name}, in which some modules stay.*--base {name} takes"):
        open_run(lora, base=str(base), qlora_base="nf4")
    facts = inspect_run(str(lora), base=str(base))
    assert "some modules stay in 16 bits" in facts["qlora"]["not_compared"]
    assert not cache.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TORCHTUNE | {"model": {"_component_": "torchtune.models.llama3.qlora_llama3_8b"}}, "torchao's"),
        (FACTORY | {"quantization_bit": 4, "quantization_method": "hqq"}, "quantized by hqq"),
        (AXOLOTL | {"bnb_config_kwargs": {"bnb_4bit_quant_type": "int4"}}, "'int4'; known are nf4 and fp4"),
        ({"quantization_config": DOUBLE | {"llm_int8_skip_modules": ["r.*"]}}, "which is no plain name"),
    ],
    ids=["torchtune", "hqq", "int4", "pattern"],
)
def test_rounding_of_another_kind(lora: Path, base: Path, content: object, message: str) -> None:
    write(lora / ("config.json" if "quantization_config" in str(content) else "a.yaml"), content)
    with pytest.raises(RunError, match=message):
        open_run(lora, base=str(base), qlora_base="nf4")
    assert message in inspect_run(str(lora), base=str(base))["qlora"]["not_compared"]


def test_a_base_that_is_stored_quantized(tmp_path: Path, lora: Path, base: Path) -> None:
    from test_quantized import as_nf4  # noqa: PLC0415  (how such a base is written)

    quantized_base = make("llama", tmp_path / "four")
    stored = load_file(quantized_base / "model.safetensors")
    from safetensors.torch import save_file  # noqa: PLC0415

    name = "model.layers.0.mlp.up_proj.weight"
    parts = {key: part for key, part in stored.items() if key != name} | as_nf4(name, stored[name])[0]
    save_file(parts, quantized_base / "model.safetensors")
    change_json(quantized_base / "config.json", quantization_config={"quant_method": "bitsandbytes"} | DOUBLE)
    with pytest.raises(
        MergeError, match=r"is itself stored quantized \(nf4 \(bitsandbytes\)\).*Leave --qlora-base out"
    ):
        source_of_nf4(lora, quantized_base)
    assert "qlora" not in inspect_run(str(lora), base=str(quantized_base))
    assert source_of(lora, base)


def source_of_nf4(run: Path, base: Path) -> Any:  # noqa: ANN401  (Merged)
    return open_source(open_run(run, base=str(base), qlora_base="nf4"))


@pytest.mark.parametrize("command", [["export"], ["plan"], ["inspect"], ["merge", "--check"]], ids=str)
def test_a_checkpoint_has_no_adapter(
    base: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ggufx", command[0], str(base), *command[1:], "--qlora-base", "nf4"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is a full model, not an adapter, so --qlora-base nf4 has no meaning. Leave it out." in captured.err


def experts(lora: Path, base: Path) -> set[str]:
    """Which kinds of a Mixtral's weights are rounded."""
    source, stored = source_of_nf4(lora, base), source_of(lora, base)
    shapes = source.shapes()
    changed = {
        name
        for name, shape in shapes.items()
        if not source._read(0, name, range(shape[0])).equal(stored._read(0, name, range(shape[0])))
    }
    return {name.removesuffix(".weight").rpartition(".")[2] for name in changed}


def test_experts(tmp_path: Path) -> None:
    base = make("mixtral", tmp_path / "base")
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    run = write_adapter(tmp_path / "one", base, {})
    with pytest.raises(MergeError, match=r"whether training saw \S+ in 4 bits is not known.*- Transformers 4"):
        source_of_nf4(run, base)
    write(run / "README.md", "QLoRA\n\n### Framework versions\n\n- Transformers 4.57.1\n")
    assert experts(run, base) == attention | {"w1", "w2", "w3", "gate"}
    write(run / "README.md", "QLoRA\n\n### Framework versions\n\n- Transformers: 5.2.0\n")
    assert experts(run, base) == attention
    (run / "README.md").unlink()
    fused = train(
        load(base), tmp_path / "fused", target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"]
    )
    assert experts(fused, base) == attention
    key = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w1.lora_{}.weight"
    pair = {key.format("A"): torch.ones(4, 64), key.format("B"): torch.ones(160, 4)}
    single = write_adapter(
        tmp_path / "single", base, pair, target_modules=["q_proj", "layers.0.block_sparse_moe.experts.1.w1"]
    )
    assert experts(single, base) == attention | {"w1", "w2", "w3", "gate"}


@pytest.mark.parametrize(
    ("entry", "before", "since"),
    [
        ("model.layers.0", True, True),
        ("model.layers.1", False, False),
        ("model.layers.0.mlp.up_proj", True, True),
        ("self_attn", False, False),
        ("mlp", True, False),  # a part of the name
        ("up_proj", False, True),  # its ending
        ("layers.0.mlp.up_proj", True, True),
        ("model.language_model.layers.0.mlp", True, True),
        ("model.layers.0.ml", False, False),
    ],
)
def test_modules_that_stay(entry: str, before: bool, since: bool) -> None:  # noqa: FBT001
    name, shape = "model.layers.0.mlp.up_proj.weight", (160, 64)
    for version, stays in ((4, before), (5, since), (None, before if before == since else None)):
        four_bit = FourBit(skipped=(entry,), transformers=version)
        run: Any = SimpleNamespace(four_bit=four_bit, adapters=())
        names, undecided = rounded_weights({name: shape, "model.norm.weight": (64,)}, run)
        assert (name in names, name in undecided) == (stays is False, stays is None), version


def test_by_layer() -> None:
    rows = [
        ("model.layers.10.mlp.up_proj.weight", 3.0, 1.0),
        ("model.layers.2.mlp.up_proj.weight", 3.0, 6.0),
        ("model.layers.2.mlp.down_proj.weight", 4.0, 8.0),
        ("lm_head.weight", 0.0, 1.0),
    ]
    layers = by_layer(rows)
    assert [(one.layer, one.weights, one.delta, one.error) for one in layers] == [
        ("2", 2, 5.0, 10.0),
        ("10", 1, 3.0, 1.0),
        ("lm_head.weight", 1, 0.0, 1.0),
    ]
    assert layers[0].ratio == 2.0
    message = warning(layers, over="full")
    assert message is not None
    assert "in 2 of 3 layers" in message
    assert "(the worst: lm_head.weight, inf times)" in message
    assert "--qlora-base nf4 too" in message
    assert "as in training" in str(warning(layers, over="nf4"))
    assert warning([LayerError("0", 1, 2.0, 1.0)], over="full") is None
    assert by_layer([]) == ()


@pytest.mark.parametrize("choice", ["full", "nf4"])
@pytest.mark.parametrize("size", [0.002, 0.5])
def test_inspect_compares(lora: Path, base: Path, choice: str, size: float) -> None:
    write_adapter(lora, base, {name: torch.full(shape, size) for name, shape in PAIR.items()})
    write(lora / "config.json", {"quantization_config": DOUBLE})
    facts = inspect_run(str(lora), qlora_base=choice)
    block = facts["qlora"]
    assert block["base"] == choice
    assert block["settings"] == "lora-run/config.json"
    (layer,) = block["layers"]
    assert (layer["layer"], layer["weights"]) == ("0", 1)
    weight = load_file(base / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    error = (trip(weight).read("x", 0, 64) - weight.float()).norm()
    assert layer["error"] == pytest.approx(float(error), rel=1e-5)
    assert layer["delta"] == pytest.approx(2 * 4 * size * size * 64, rel=1e-3)
    assert any(one.startswith("QLoRA: in 1 of 1 layers") for one in facts["warnings"]) is (size < 0.01)
    assert f"layer 0: rounding to 4 bits took {layer['error']:.4g}" in render(facts)


PAIR = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 64),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (64, 4),
}


def test_report(lora: Path, base: Path, tmp_path: Path) -> None:
    write_adapter(lora, base, {name: torch.full(shape, 0.002) for name, shape in PAIR.items()})
    write(lora / "README.md", PEFT_LIST + "".join(f"- {key}: {value}\n" for key, value in DOUBLE.items()))
    options = {"verify": False, "threads": 1}
    out, levels = tmp_path / "out", [load_profile("q8_0")]
    document: Any = export(str(lora), levels, out, options=Options(**options), progress=lambda *_: None)[0]
    facts = inspect_run(str(lora))
    assert document["qlora"] == facts["qlora"]
    assert [one for one in document["warnings"] if one.startswith("QLoRA")]
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "the base in 16 bits" in page
    (layer,) = facts["qlora"]["layers"]
    assert f"| 0 | 1 | {plain(layer['error'])} | {plain(layer['delta'])} |" in page
    rounded = Options(**options, qlora_base="nf4")
    with pytest.raises(OutputError, match="of another run"):
        export(str(lora), [load_profile("q4_0")], out, options=rounded, progress=lambda *_: None)
    document = export(str(lora), levels, tmp_path / "nf4", options=rounded, progress=lambda *_: None)[0]
    assert document["run"]["qlora_base"] == "nf4"
    assert "as README.md says" in document["run"]["notes"][-1]
    assert document["qlora"]["base"] == "nf4"
    assert document["qlora"]["layers"][0]["error"] == facts["qlora"]["layers"][0]["error"]
