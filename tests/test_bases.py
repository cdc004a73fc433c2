"""Which base an adapter stands on: 4-bit names, revisions, names that differ, and where it is looked for."""

import json
import shutil
from pathlib import Path

import pytest
from adapters import write_adapter
from tiny import make
from trainers import AXOLOTL, COMMIT, FACTORY, cache, cached, card, write

from exporter.errors import RunError
from exporter.run import open_run
from exporter.run.base import sixteen_bit

__all__ = ["cache"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("bases") / "Tiny-Llama")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("unsloth/Llama-4-Scout-17B-16E-Instruct-unsloth-dynamic-bnb-4bit", "unsloth/Llama-4-Scout-17B-16E-Instruct"),
        ("unsloth/gemma-2b-it-bnb-4bit", "unsloth/gemma-2b-it"),
        ("unsloth/Some-Later-Model-4bit", "unsloth/Some-Later-Model"),
        ("unsloth/CodeLlama-34b-bnb-4bit", "codellama/CodeLlama-34b-hf"),
        ("unsloth/solar-10.7b-bnb-4bit", "upstage/SOLAR-10.7B-v1.0"),
        ("unsloth/llama-3-70b-Instruct-bnb-4bit", "meta-llama/Meta-Llama-3-70B-Instruct"),
        ("unsloth/llama-3-8b", None),
        ("somebody/llama-3-8b-bnb-4bit", None),
        ("models/unsloth/llama-3-8b-bnb-4bit", None),
    ],
)
@pytest.mark.usefixtures("cache")
def test_a_4_bit_name_has_a_16_bit_source(name: str, source: str | None) -> None:
    assert sixteen_bit(name) == source


def test_the_16_bit_weights_of_a_4_bit_base_are_taken_and_said(cache: Path, tmp_path: Path) -> None:
    make("llama", cached(cache, "unsloth/Tiny-Llama-1B"))  # Unsloth names it in lower case, the cache does not
    name = "unsloth/tiny-llama-1b-unsloth-bnb-4bit"
    run = open_run(
        write_adapter(tmp_path / "run", None, {}, base_model_name_or_path=name, revision="deadbeef"), base_revision=None
    )
    assert run.base_name == "unsloth/Tiny-Llama-1B"
    (note,) = run.notes
    assert note == (
        f"adapter_config.json names {name}, stored in 4 bits; took its 16-bit source unsloth/Tiny-Llama-1B; its "
        "revision deadbeef is the 4-bit one's, so --base-revision tells the source's"
    )


def test_another_owners_4_bit_base_is_mapped_by_its_own_config(cache: Path, tmp_path: Path) -> None:
    make("llama", cached(cache, "org/Tiny-Llama"))
    write(cached(cache, "me/mine-4bit") / "config.json", {"_name_or_path": "org/Tiny-Llama"})
    run = open_run(write_adapter(tmp_path / "run", None, {}, base_model_name_or_path="me/mine-4bit"))
    assert (run.base_name, len(run.notes)) == ("org/Tiny-Llama", 1)


def test_a_4_bit_base_without_its_source_says_both_ways_on(cache: Path, tmp_path: Path) -> None:
    name = "unsloth/tiny-llama-bnb-4bit"
    adapter = write_adapter(tmp_path / "run", None, {}, base_model_name_or_path=name)
    with pytest.raises(RunError, match=rf"unsloth/tiny-llama: the base is no folder here.*--base {name} takes it as"):
        open_run(adapter)
    make("llama", cached(cache, name))
    assert open_run(adapter, base=name).base_name == name


def test_a_folder_of_a_4_bit_name_is_opened_as_it_is(cache: Path, tmp_path: Path) -> None:
    local = make("llama", cache.parent / "unsloth" / "tiny-llama-bnb-4bit")
    run = open_run(write_adapter(tmp_path / "run", None, {}, base_model_name_or_path="unsloth/tiny-llama-bnb-4bit"))
    assert (run.base, run.notes) == (local, ())


def test_revisions_never_mix(cache: Path) -> None:
    commits = {name: f"{number}" * 40 for number, name in enumerate(("main", "run-rev", "base-rev", "told"), 1)}
    for revision, commit in commits.items():
        make("llama", cached(cache, "org/Tiny-Llama", revision=revision, commit=commit))
        folder = cached(cache, "org/LoRA", revision=revision, commit=commit)
        told = "told" if revision == "run-rev" else None
        write_adapter(folder, None, {}, base_model_name_or_path="org/Tiny-Llama", revision=told)

    def taken(**revisions: str) -> tuple[str, str]:
        run = open_run("org/LoRA", **revisions)
        return run.folder.name, run.base.name

    assert taken() == (commits["main"], commits["main"])
    assert taken(revision="base-rev") == (commits["base-rev"], commits["main"])
    assert taken(base_revision="base-rev") == (commits["main"], commits["base-rev"])
    assert taken(revision="run-rev") == (commits["run-rev"], commits["told"])
    assert taken(revision="run-rev", base_revision="base-rev") == (commits["run-rev"], commits["base-rev"])


# Which base.


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", card({"base_model": "org/Other-7B"})),
        ("axolotl_config.yaml", AXOLOTL | {"base_model": "org/Other-7B"}),
        ("training_args.yaml", FACTORY | {"model_name_or_path": "/models/Other-7B/"}),
    ],
)
def test_two_bases_are_an_error_that_shows_both(file: str, content: object, base: Path, tmp_path: Path) -> None:
    write(tmp_path / file, content)
    write_adapter(tmp_path, base, {})
    with pytest.raises(RunError, match=rf"the base is {base} by adapter_config.json, \S*Other-7B/? by {file}.*--base"):
        open_run(tmp_path)
    run = open_run(tmp_path, base=str(base))
    assert (run.base, run.base_from) == (base, "--base")


@pytest.mark.parametrize(
    "other",
    [
        "me/tiny-llama",
        "me/Tiny-Llama-bnb-4bit",
        "unsloth/tiny-llama-unsloth-bnb-4bit",
        "meta-llama/Meta-Tiny-Llama",
        r"D:\models\Tiny-Llama",
        "/data/huggingface/hub/models--org--Tiny-Llama/snapshots/" + COMMIT,
        "org/Its-Name-On-The-Hub",
        "..",
    ],
)
def test_other_spellings_of_one_base_are_none(other: str, base: Path, tmp_path: Path) -> None:
    local = shutil.copytree(base, tmp_path / "Tiny-Llama")
    stored = json.loads((base / "config.json").read_text())
    write(local / "config.json", stored | {"_name_or_path": "org/its-name-on-the-hub"})
    write(tmp_path / "run" / "README.md", card({"base_model": [other]}))
    assert open_run(write_adapter(tmp_path / "run", local, {})).base == local


def test_a_base_that_only_the_trainer_names_is_taken_and_said(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "axolotl_config.yaml", AXOLOTL | {"base_model": str(base)})
    run = open_run(write_adapter(tmp_path, None, {}))
    assert (run.base, run.base_from) == (base, "axolotl_config.yaml")
    assert run.notes == (f"adapter_config.json names no base; took {base}, which axolotl_config.yaml names",)


@pytest.mark.parametrize("name", ["/training/machine/Tiny-Llama", r"C:\models\Tiny-Llama", "org/Tiny-Llama"])
@pytest.mark.usefixtures("cache")
def test_a_model_of_the_bases_name_beside_the_run_is_suggested(name: str, base: Path, tmp_path: Path) -> None:
    local = shutil.copytree(base, tmp_path / "runs" / "Tiny-Llama")
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
    fields: dict[str, object] = {"base_model_name_or_path": name, "auto_mapping": mapping}
    run = write_adapter(tmp_path / "runs" / "run", None, {}, **fields)
    with pytest.raises(RunError, match=rf"beside the run: if it is that one, --base {local}\."):
        open_run(run)
    assert open_run(run, base=str(local)).base == local
    write_adapter(run, None, {}, **(fields | {"auto_mapping": {"base_model_class": "GPT2LMHeadModel"}}))
    with pytest.raises(RunError) as refused:
        open_run(run)
    assert "beside the run" not in str(refused.value)


@pytest.mark.parametrize("name", ["~no-such-user/base", "x" * 300, "a\0b", "/", "", "../..", "\\\\", "--base"])
@pytest.mark.usefixtures("cache")
def test_a_base_of_an_odd_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--base|Give the base's folder"):
        open_run(write_adapter(tmp_path / "run", None, {}, base_model_name_or_path=name))
