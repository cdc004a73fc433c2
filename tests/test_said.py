"""What is read of cards and other files of a run: what trainers wrote, never prose; of odd and hostile ones nothing."""

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from adapters import write_adapter
from qlora_cases import PEFT_LIST
from tiny import make
from trainers import AXOLOTL_BODY, card, inspected, ran, write

from exporter.inspect import inspect_run
from exporter.run import open_run
from exporter.run.pickled import class_of
from exporter.run.said import read_card

UNSLOTH_BODY = (
    "# Uploaded model\n\nThis qwen2 model was trained 2x faster with [Unsloth](https://github.com/unslothai/unsloth) "
    "and Huggingface's TRL library.\n"
)
TRL_LINE = "It has been trained using [TRL](https://github.com/huggingface/trl)."
SENTENCE = "This model is a fine-tuned version of [base](https://huggingface.co/base) on "
QUICK = 20
"""Seconds that no file of a run may take; what aliases can make of one takes minutes."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("bases") / "Tiny-Llama", dtype="bfloat16")


def facts_of(run: Path) -> dict[str, Any]:
    """What ``inspect --json`` says; it must end well, and say nothing beside that."""
    began = time.monotonic()
    status, out, err = ran("inspect", str(run), "--json")
    assert (status, err) == (0, "")
    assert time.monotonic() - began < QUICK
    facts: dict[str, Any] = json.loads(out)
    return facts


@pytest.mark.parametrize(
    ("trainer", "text"),
    [
        ("axolotl", AXOLOTL_BODY.partition("<details>")[0]),
        ("axolotl", card({"tags": ["axolotl", "generated_from_trainer", "trl"]})),
        ("unsloth", UNSLOTH_BODY),
        ("unsloth", card({"tags": ["trl", "sft"]}, UNSLOTH_BODY + TRL_LINE)),
        ("trl", f"{SENTENCE}the d dataset.\n{TRL_LINE}\n"),
        ("llama-factory", card({"tags": ["llama-factory"]}, TRL_LINE)),
    ],
)
def test_a_card_says_a_trainer_by_what_that_writes(trainer: str, text: str, tmp_path: Path) -> None:
    assert read_card(write(tmp_path / "README.md", text)).trainer == trainer


PROSE = [
    "You can fine-tune it with TRL, Axolotl or Unsloth. A QLoRA recipe is in the repository.",
    "Evaluated against models trained by LLaMA-Factory.",
    "Trained with plain PEFT. Unlike Axolotl, no packing. We did not use QLoRA.",
    f"Unlike a model of which one reads `{TRL_LINE}`, or a model that was trained 2x faster with [Unsloth](x).",
    "We compare against QLoRA; this run itself is plain 16-bit LoRA, load_in_4bit=False.",
    "Not load_in_4bit: true.\n\n```python\nmodel = load(name, load_in_4bit=True)\n```\n",
    "```yaml\nload_in_4bit: false  # not load_in_4bit: true\n# load_in_4bit: true\n```\nload_in_4bit: true\n```yaml\n",
    "See axolotl config of others:\n```yaml\nbase_model: other/model\ndatasets: theirs\n```\n",
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_says_nothing(text: str, base: Path, tmp_path: Path) -> None:
    write(tmp_path / "README.md", card({"license": "mit"}, text))
    run = open_run(write_adapter(tmp_path, base, {}))
    assert (run.trainer, run.dataset, run.four_bit, run.notes) == ("peft", None, None, ())


def test_a_long_list_or_version_is_read_in_time(base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path, base, {})
    write(run / "README.md", f"- Transformers {'4' * 5000}.1\n\n{PEFT_LIST}" + "\n" * 2**17)
    assert "qlora" not in facts_of(run)


# Datasets.


@pytest.mark.parametrize(
    ("named", "datasets"),
    [
        ("the None dataset.", ()),
        (f"the [None](https://huggingface.co/datasets/None) dataset.\n{TRL_LINE}", ()),
        ("the generator dataset.", ()),
        ("the json dataset.", ()),
        ("an unknown dataset.", ()),
        ("the identity, the None and the json datasets.", ("identity",)),
        ("the org/json dataset.", ("org/json",)),
    ],
)
def test_loaders_and_none_are_no_datasets(named: str, datasets: tuple[str, ...], tmp_path: Path) -> None:
    assert read_card(write(tmp_path / "README.md", SENTENCE + named)).datasets == datasets


def test_loaders_and_none_are_no_names_in_front_matter(tmp_path: Path) -> None:
    front = {"datasets": ["generator", "None", "own/data"], "base_model": "None"}
    said = read_card(write(tmp_path / "README.md", card(front)))
    assert (said.bases, said.datasets) == ((), ("own/data",))


# Front matter in `inspect`: the licence that it says, or the licence file's name.

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
CARDS: dict[str, tuple[str, str | None]] = {
    "plain": ("license: mit\n", "mit"),
    "list": ("license: [mit, apache-2.0]\n", "mit, apache-2.0"),
    "odd fields": ("1: 2\nnull: 3\nmodel-index: 5\n__class__: x\n? [a, b]\n: c\nlicense: mit\n", "mit"),
    "no card": ("", "LICENSE"),
    "tag": ('license: !!python/object/apply:os.mkdir ["sprung"]\n', "LICENSE"),
    "brackets": ("license: [a\nb: : :\n", "LICENSE"),
    "list alone": ("- a\n- b\n", "LICENSE"),
    "text": ("hello\n", "LICENSE"),
    "tab": ("\tlicense: mit\n", "LICENSE"),
    "date": ("license: 2024-13-45\n", "LICENSE"),
    "number": (f"license: {'9' * 5000}\n", "LICENSE"),
    "mapping": ("license: {a: 1}\ndatasets: {a: b}\n", "LICENSE"),
    "deep": (f"license: {'[' * 1000}{']' * 1000}\n", "LICENSE"),
    "itself": ("license: &a [*a]\n", "LICENSE"),
    "nul": ("license: a\0b\n", "LICENSE"),
    "aliases": (ALIASES + "license: *a9\n", "LICENSE"),
    "one alias often": (f"a: &a {'m' * 50000}\nlicense: [{'*a, ' * 15000}]\n", "m" * 50000),
}


@pytest.mark.parametrize("name", CARDS)
def test_front_matter_of_any_kind_is_read_or_left(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, named = CARDS[name]
    run = write_adapter(tmp_path / "run", base, {})
    write(run / "LICENSE", "own\n")
    write(run / "README.md", f"---\n{text}---\n")
    assert facts_of(run)["license"] == {"run": named, "base": None}
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("text", ["\ufeff---\nlicense: mit\n---\n", "---\r\nlicense: mit\r\n---\r\n"])
def test_a_mark_or_line_ends_of_windows_hide_no_licence(text: str, base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path, base, {})
    (run / "README.md").write_bytes(text.encode())
    assert inspect_run(str(run))["license"]["run"] == "mit"


def test_a_card_without_front_matter_is_no_matter(base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path, base, {})
    write(run / "README.md", "# A model\n")
    status, out, err = inspected(run)
    assert (status, err) == (0, "")
    assert "license" in out


# YAML beside the adapter, whose keys and mappings are aliases.

DEEP = "[" * 400 + "]" * 400
WIDE = "".join(f"  k{i}: v\n" for i in range(5000))
YAMLS = {
    "key in itself": "? &a [*a]\n: x\n",
    "key in itself, inside": "model:\n  ? &a [*a]\n  : x\n",
    "deep key": f"? {DEEP}\n: x\n",
    "key of aliases": f"{ALIASES}? *a9\n: x\n",
    "mapping of keys": f"{ALIASES}model:\n  ? *a9\n  : x\n",
    "path that is a list": "base_model: {base}\ndatasets: [{path: [a], data_files: [[b]]}]\n",
    "one mapping often": f"a: &a\n{WIDE}" + "".join(f"m{i}: *a\nmodel: *a\n" for i in range(2000)),
    "one name often": f"base_model: {{base}}\na: &a {'m' * 50000}\ndatasets: [{'*a, ' * 15000}]\n",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_with_keys_of_any_kind_is_read_in_time(name: str, base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path, base, {})
    write(run / "config.yaml", YAMLS[name].replace("{base}", str(base)))
    facts = facts_of(run)
    assert "qlora" not in facts
    assert (facts["dataset"] or {}).get("name") == ("m" * 50000 if name == "one name often" else None)


# `training_args.bin` in an archive of compressed data, which torch never writes.


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damaged", [True, False])
def test_compressed_arguments_say_nothing(method: int, *, damaged: bool, base: Path, tmp_path: Path) -> None:
    file = write_adapter(tmp_path, base, {}) / "training_args.bin"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02ctrl.trainer\nSFTConfig\n)\x81." + bytes(range(256)) * 20)
    data = bytearray(file.read_bytes())
    data[45:80] = bytes(one ^ 0xFF for one in data[45:80]) if damaged else data[45:80]
    file.write_bytes(data)
    assert class_of(file) is None
    assert open_run(tmp_path).trainer == "transformers"
