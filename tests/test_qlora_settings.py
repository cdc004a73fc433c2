"""How a base was rounded to 4 bits: as a file of the run says it, and what cannot be rounded so, refused by name."""

from pathlib import Path

import pytest
from adapters import one_thread, source_of
from exported import change_json, planned
from qlora_cases import DOUBLE, LINEAR, PEFT_LIST, base, lora, source_of_nf4
from quantized_files import as_nf4
from safetensors.torch import load_file, save_file
from tiny import make
from trainers import AXOLOTL, AXOLOTL_BODY, FACTORY, TORCHTUNE, cache, cached, card, ran, write

from exporter.errors import MergeError, RunError
from exporter.inspect import inspect_run
from exporter.run import open_run
from exporter.run.values import FourBit
from exporter.source import open_source

__all__ = ["base", "cache", "lora", "one_thread"]


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
TOLD = {
    "config": ("config.json", {"quantization_config": DOUBLE}, FourBit(said_by="lora-run/config.json")),
    "defaults": ("config.json", {"quantization_config": {"load_in_4bit": True}}, FourBit("fp4", nested=False)),
    "peft": ("README.md", PEFT_CARD, FourBit("fp4", nested=False, skipped=("lm_head", "model.layers.1.mlp"))),
    "axolotl-card": ("README.md", AXOLOTL_BODY, FourBit()),
    "tag": ("README.md", card({"tags": ["QLoRA"]}, "- Transformers 4.57.1\n"), FourBit(transformers=4)),
    "block": (
        "README.md",
        "```yaml\nload_in_4bit: true\nbnb_4bit_use_double_quant: false\n```\n",
        FourBit("fp4", nested=False),
    ),
    "axolotl": ("config.yml", AXOLOTL, FourBit(said_by="config.yml")),
    "axolotl-plain": (
        "config.yml",
        AXOLOTL | {"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
        FourBit(nested=False),
    ),
    "factory": ("args.yaml", FACTORY | {"quantization_bit": 4}, FourBit(said_by="args.yaml")),
    "factory-plain": (
        "args.yaml",
        FACTORY | {"quantization_bit": 4, "double_quantization": False},
        FourBit(nested=False),
    ),
    "trl": (
        "trl.yaml",
        {"model_name_or_path": "org/Tiny-Llama", "dataset_name": "d", "load_in_4bit": True},
        FourBit(nested=False),
    ),
}


@pytest.mark.parametrize("way", TOLD)
def test_settings_by_each_file(way: str, lora: Path, base: Path) -> None:
    file, content, expected = TOLD[way]
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
    quantized_base = make("llama", tmp_path / "four")
    stored = load_file(quantized_base / "model.safetensors")
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


@pytest.mark.parametrize("command", [["export"], ["plan"], ["inspect"], ["merge", "--check"]], ids=str)
def test_a_checkpoint_has_no_adapter(base: Path, command: list[str]) -> None:
    status, out, err = ran(command[0], str(base), *command[1:], "--qlora-base", "nf4")
    assert (status, out) == (2, "")
    assert "is a full model, not an adapter, so --qlora-base nf4 has no meaning. Leave it out." in err
