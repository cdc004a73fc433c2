"""Files of runs as each trainer writes them (names and fields of the projects' sources and published runs, 2026)."""

import json
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from exporter import cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def cached(cache: Path, name: str, *, revision: str = "main", commit: str = COMMIT) -> Path:
    """The folder in the cache of one revision of a repository."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def write(file: Path, content: object) -> Path:
    """A file of YAML, JSON or text, by its name and content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dump = json.dumps if file.suffix == ".json" else yaml.safe_dump
    file.write_text(content if isinstance(content, str) else dump(content), encoding="utf-8")
    return file


def card(front: dict[str, Any], body: str = "") -> str:
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{body}"


def arguments(file: Path, module: str, name: str) -> Path:
    """`training_args.bin`, an object of such a class as `torch.save` stores it."""
    kind = type(name, (), {"__module__": module})
    parts = module.split(".")
    packages = {".".join(parts[: k + 1]): ModuleType(part) for k, part in enumerate(parts)}
    setattr(packages[module], name, kind)
    args = kind()
    args.__dict__ |= {"output_dir": "out", "learning_rate": 2e-4, "device": torch.device("cpu")}
    with pytest.MonkeyPatch.context() as patch:
        for package, made in packages.items():
            patch.setitem(sys.modules, package, made)
        torch.save(args, file)
    return file


def ran(*words: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command of ggufx, each run of blanks in the latter as one."""
    out, err = StringIO(), StringIO()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["ggufx", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    signal.signal(signal.SIGTERM, before)
    assert isinstance(stop.value.code, int)
    return stop.value.code, out.getvalue(), " ".join(err.getvalue().split())


def inspected(run: Path) -> tuple[int, str, str]:
    return ran("inspect", str(run))


HYDRA = {"data": {"train_files": ["gsm8k/train.parquet"]}, "actor_rollout_ref": {"model": {"path": "org/Tiny-Llama"}}}
TRL_BODY = (
    "This model is a fine-tuned version of [Tiny-Llama](https://huggingface.co/Tiny-Llama) on the "
    "[trl-lib/Capybara](https://huggingface.co/datasets/trl-lib/Capybara) dataset.\n"
    "It has been trained using [TRL](https://github.com/huggingface/trl).\n"
)
FACTORY_BODY = (
    "This model is a fine-tuned version of [Tiny-Llama](https://huggingface.co/Tiny-Llama) on the identity, the "
    "alpaca_en_demo and the c4_demo datasets.\n"
)
AXOLOTL = {
    "base_model": "org/Tiny-Llama",
    "load_in_4bit": True,
    "datasets": [{"path": "mhenrichsen/alpaca_2k_test", "type": "alpaca"}, {"path": "json", "data_files": "own.jsonl"}],
    "adapter": "qlora",
    "sequence_len": 2048,
}
AXOLOTL_BODY = (
    '[<img src="axolotl-badge-web.png" alt="Built with Axolotl"/>](https://github.com/axolotl-ai-cloud/axolotl)\n'
    f"<details><summary>See axolotl config</summary>\n\naxolotl version: `0.9.2`\n```yaml\n"
    f"{yaml.safe_dump(AXOLOTL)}\n```\n\n</details><br>\n"
)
FACTORY = {
    "model_name_or_path": "org/Tiny-Llama",
    "stage": "sft",
    "finetuning_type": "lora",
    "dataset_dir": "data",
    "dataset": "identity,alpaca_en_demo",
    "template": "llama3",
    "output_dir": "saves/lora",
}
BOARD = {"top.model_name": "Llama-3-8B-Chat", "top.finetuning_type": "lora", "train.dataset": ["identity", "c4_demo"]}
TORCHTUNE = {
    "model": {"_component_": "torchtune.models.llama3_2.lora_llama3_2_1b", "lora_rank": 8},
    "checkpointer": {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": "/data/elsewhere"},
    "dataset": {"_component_": "torchtune.datasets.alpaca_dataset", "packed": False},
}
