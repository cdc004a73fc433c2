"""Runs as each trainer leaves them: who made it, on what base and data, and which file says so."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from adapters import quiet, write_adapter
from tiny import make
from trainers import (
    AXOLOTL,
    AXOLOTL_BODY,
    BOARD,
    FACTORY,
    FACTORY_BODY,
    HYDRA,
    TORCHTUNE,
    TRL_BODY,
    arguments,
    card,
    inspected,
    write,
)

from exporter.run import open_run
from exporter.run.pickled import class_of
from exporter.run.said import read_card

# Files of a run beside its adapter -> trainer, what says so, dataset, what names it.
RUNS: dict[str, tuple[dict[str, object], tuple[str, str, str | None, str | None]]] = {
    "trl": (
        {
            "README.md": card({"base_model": "org/Tiny-Llama", "tags": ["trl", "sft"]}, TRL_BODY),
            "trainer_state.json": {},
        },
        ("trl", "README.md", "trl-lib/Capybara", "README.md"),
    ),
    "trl over a mirror": (
        {"README.md": card({"base_model": "unsloth/Tiny-Llama", "datasets": "trl-lib/Capybara"}, TRL_BODY)},
        ("trl", "README.md", "trl-lib/Capybara", "README.md"),
    ),
    "trl command line": (
        {"config.yml": {"model_name_or_path": "org/Tiny-Llama", "dataset_name": "trl-lib/Capybara"}},
        ("trl", "config.yml", "trl-lib/Capybara", "config.yml"),
    ),
    "trainer": (
        {"trainer_state.json": {"log_history": []}, "README.md": card({"base_model": "org/Tiny-Llama"})},
        ("transformers", "trainer_state.json", None, None),
    ),
    "unsloth card": (
        {"README.md": card({"base_model": "org/Tiny-Llama", "tags": ["sft", "transformers", "trl", "unsloth"]})},
        ("unsloth", "README.md", None, None),
    ),
    "axolotl card": (
        {"README.md": card({"base_model": "org/Tiny-Llama", "tags": ["generated_from_trainer"]}, AXOLOTL_BODY)},
        ("axolotl", "README.md", "mhenrichsen/alpaca_2k_test, own.jsonl", "README.md"),
    ),
    "axolotl yaml": (
        {"lora.yml": AXOLOTL, "README.md": card({"base_model": "org/tiny-llama", "datasets": ["other"]})},
        ("axolotl", "lora.yml", "mhenrichsen/alpaca_2k_test, own.jsonl", "lora.yml"),
    ),
    "llama-factory": (
        {"trainer_log.jsonl": "{}\n", "training_args.yaml": FACTORY},
        ("llama-factory", "trainer_log.jsonl", "identity, alpaca_en_demo", "training_args.yaml"),
    ),
    "llama-factory yaml": (
        {"llama3_lora_sft.yaml": FACTORY, "README.md": card({"tags": ["unsloth"]})},
        ("llama-factory", "llama3_lora_sft.yaml", "identity, alpaca_en_demo", "llama3_lora_sft.yaml"),
    ),
    "llama-factory board": (
        {"llamaboard_config.yaml": BOARD},
        ("llama-factory", "llamaboard_config.yaml", "identity, c4_demo", "llamaboard_config.yaml"),
    ),
    "llama-factory card": (
        {"README.md": card({"base_model": "org/Tiny-Llama", "tags": ["llama-factory", "lora"]}, FACTORY_BODY)},
        ("llama-factory", "README.md", "identity, alpaca_en_demo, c4_demo", "README.md"),
    ),
    "torchtune": (
        {"torchtune_config.yaml": TORCHTUNE},
        ("torchtune", "torchtune_config.yaml", "torchtune.datasets.alpaca_dataset", "torchtune_config.yaml"),
    ),
    "verl": (
        {".hydra/config.yaml": HYDRA},
        ("verl", ".hydra/config.yaml", "gsm8k/train.parquet", ".hydra/config.yaml"),
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("bases") / "Tiny-Llama")


@pytest.mark.parametrize("name", RUNS)
def test_a_trainer_its_base_and_its_data_are_found(name: str, base: Path, tmp_path: Path) -> None:
    files, (trainer, by, dataset, data_by) = RUNS[name]
    for file, content in files.items():
        write(tmp_path / "run" / file, content)
    run = open_run(write_adapter(tmp_path / "run", base, {}))
    assert (run.trainer, run.trainer_from, run.dataset, run.dataset_from) == (trainer, by, dataset, data_by)
    assert (run.base, run.base_from, run.notes) == (base, "adapter_config.json", ())


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_of_it_is_found_the_same(name: str, base: Path, tmp_path: Path) -> None:
    files, expected = RUNS[name]
    for file, content in files.items():
        write(tmp_path / file, content)
    inner = write_adapter(tmp_path / "checkpoint-40", base, {})
    for run in (open_run(tmp_path), open_run(inner)):
        assert (run.trainer, run.trainer_from, run.dataset, run.dataset_from) == expected


# `training_args.bin`.


@pytest.mark.parametrize(
    ("module", "name", "trainer"),
    [
        ("trl.trainer.sft_config", "SFTConfig", "trl"),
        ("axolotl.core.training_args", "AxolotlTrainingArguments", "axolotl"),
        ("llamafactory.hparams.training_args", "TrainingArguments", "llama-factory"),
        ("UnslothSFTTrainer", "UnslothSFTConfig", "unsloth"),
        ("swift.trainers.arguments", "Seq2SeqTrainingArguments", "ms-swift"),
        ("somebody.own", "Arguments", "transformers"),
    ],
)
def test_the_class_of_the_arguments_names_the_trainer(  # noqa: PLR0917
    module: str, name: str, trainer: str, base: Path, tmp_path: Path
) -> None:
    assert class_of(arguments(tmp_path / "training_args.bin", module, name)) == f"{module}.{name}"
    run = open_run(write_adapter(tmp_path, base, {}))
    assert (run.trainer, run.trainer_from) == (trainer, "training_args.bin")


@pytest.mark.parametrize(
    ("module", "trainer"), [("axolotl.core.training_args", "axolotl"), ("trl.trainer.sft_config", "unsloth")]
)
def test_a_class_is_surer_than_a_card_but_for_unsloths(module: str, trainer: str, base: Path, tmp_path: Path) -> None:
    arguments(tmp_path / "training_args.bin", module, "Arguments")
    write(tmp_path / "README.md", card({"tags": ["trl", "unsloth"]}))
    assert open_run(write_adapter(tmp_path, base, {})).trainer == trainer


def test_the_arguments_of_transformers_are_read(tmp_path: Path) -> None:
    from transformers import TrainingArguments  # noqa: PLC0415  (seconds to import)

    with quiet():
        torch.save(TrainingArguments(output_dir=str(tmp_path), use_cpu=True), tmp_path / "training_args.bin")
    assert class_of(tmp_path / "training_args.bin") == "transformers.training_args.TrainingArguments"


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_unpickled(base: Path, tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "training_args.bin")
    assert class_of(tmp_path / "training_args.bin") is None
    run = open_run(write_adapter(tmp_path, base, {}))
    assert run.trainer == "transformers"  # the file is the Trainer's, its class is not certain
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02ctrl\nSFTConfig\n)\x81."])
def test_arguments_that_are_no_archive_say_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(content)
    assert class_of(tmp_path / "training_args.bin") is None


# Unsloth.


def test_unsloth_is_known_by_its_mark_in_the_adapter(base: Path, tmp_path: Path) -> None:
    mark = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers", "unsloth_fixed": True}
    arguments(write_adapter(tmp_path, base, {}, auto_mapping=mark) / "training_args.bin", "trl.trainer", "SFTConfig")
    run = open_run(tmp_path)
    assert (run.trainer, run.trainer_from) == ("unsloth", "adapter_config.json")


@pytest.mark.parametrize(("field", "trainer"), [("unsloth_version", "unsloth"), ("unsloth_fixed", "unknown")])
def test_a_merged_model_of_unsloth_is_told_from_its_mirrors(
    field: str, trainer: str, base: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(base, tmp_path / "merged")
    write(run / "config.json", json.loads((run / "config.json").read_text()) | {field: "2026.3.3"})
    assert open_run(run).trainer == trainer


def test_inspect_shows_what_says_so(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "axolotl_config.yaml", AXOLOTL | {"base_model": str(base)})
    status, out, _ = inspected(write_adapter(tmp_path, None, {}))
    assert status == 0
    assert "trainer: axolotl\ntrainer from: axolotl_config.yaml\n" in out
    assert "dataset:\n  name: mhenrichsen/alpaca_2k_test, own.jsonl\n  from: axolotl_config.yaml\n" in out
    assert f"base:\n  name: Tiny-Llama\n  path: {base}\n  from: axolotl_config.yaml\n" in out
    assert "adapter_config.json names no base; took" in out


# What is read is not trusted.


BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        "a: [", "\x00", "- 1", "base_model: &a [*a]\ndatasets: *a", "datasets: [[[[x]]]]\nbase_model: {a: 1}",
        "!!python/object/apply:os.mkdir [sprung]", "a: " + "[" * 1000, BOMB, "datasets: 2026-02-31\nbase_model: 5",
    ],
)  # fmt: skip
def test_odd_yaml_says_nothing_and_runs_nothing(
    text: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run" / "config.yaml", text)
    write(tmp_path / "run" / "README.md", f"---\n{text}\n---\n")
    run = open_run(write_adapter(tmp_path / "run", base, {}))
    assert (run.base, run.dataset) == (base, None)
    assert not (tmp_path / "sprung").exists()


def test_a_card_whose_front_matter_is_broken_is_noted(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "README.md", "---\nbase_model: [org/Other\n---\n")
    run = open_run(write_adapter(tmp_path, base, {}))
    assert run.notes == ("README.md: its front matter is no YAML, so no base and no dataset were looked for in it",)


@pytest.mark.parametrize("line", ["See axolotl config\n", "fine-tuned version of [", "---\n", "[](", "```yaml\n"])
def test_a_long_card_is_read_in_time(line: str, tmp_path: Path) -> None:
    said = read_card(write(tmp_path / "README.md", "---\nlicense: mit\n---\n" + line * (2**20 // len(line))))
    assert said.bases == ()
