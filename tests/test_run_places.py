"""What lies around a run's weights: which folders are the run's, whose tokenizer is taken, what a base is called."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapters import write_adapter
from exported import change_json, planned
from safetensors.torch import load_file
from test_shards import verl
from tiny import make
from trainers import COMMIT, FACTORY, cache, cached, card, inspected, ran, write

from exporter.errors import RunError, TokenizerError
from exporter.run import open_run

__all__ = ["cache"]
ROWS, PADDED = 409, 448
TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
TEMPLATE = "{% for m in messages %}<tool>{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tmp_path_factory.mktemp("bases") / "Tiny-Llama")


def grown(run: Path, base: Path) -> Path:
    """A run whose embedding and head were padded to a multiple of 64."""
    stored = load_file(base / "model.safetensors")
    made = {name: stored[f"{name}.weight"].float() for name in ("model.embed_tokens", "lm_head")}
    more = {name: torch.cat([rows, 0.01 * torch.ones(PADDED - ROWS, rows.shape[1])]) for name, rows in made.items()}
    return write_adapter(run, base, {f"base_model.model.{name}.weight": rows for name, rows in more.items()})


def slow_tokenizer(folder: Path, base: Path) -> None:
    """The base's tokenizer with one token more, as a slow tokenizer is saved: without tokenizer.json."""
    shutil.copy(base / "tokenizer.model", folder)
    shutil.copy(base / "tokenizer_config.json", folder)
    decoder = json.loads((base / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    decoder[str(ROWS)] = {"content": "<tool>", **TOKEN}
    change_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder, chat_template=TEMPLATE)
    write(folder / "added_tokens.json", {"<tool>": ROWS})


def fast_tokenizer(folder: Path, base: Path) -> None:
    """The same as a fast one."""
    added = json.loads((base / "tokenizer.json").read_text())["added_tokens"]
    write(folder / "tokenizer.json", (base / "tokenizer.json").read_text())
    change_json(folder / "tokenizer.json", added_tokens=[*added, {"id": ROWS, "content": "<tool>", **TOKEN}])
    shutil.copy(base / "tokenizer_config.json", folder)
    change_json(folder / "tokenizer_config.json", chat_template=TEMPLATE)


def written(run: Path) -> tuple[str, object]:
    """The token behind the base's last, and the template, as a file has them."""
    keys = planned(run, "f16").tokenizer.metadata
    tokens = keys["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    return str(tokens[ROWS]), keys["tokenizer.chat_template"]


# Whose tokenizer.


def test_a_checkpoints_slow_tokenizer_is_taken_from_above_too(base: Path, tmp_path: Path) -> None:
    inner = grown(tmp_path / "out" / "checkpoint-7", base)
    slow_tokenizer(inner, base)
    fast_tokenizer(tmp_path / "out", base)
    change_json(tmp_path / "out" / "tokenizer_config.json", chat_template="{{ 'another' }}")
    for given in (tmp_path / "out", inner):
        assert written(given) == ("<tool>", TEMPLATE)


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_padded_rows_need_a_tokenizer_of_any_kind(kind: str, base: Path, tmp_path: Path) -> None:
    run = grown(tmp_path / "mine", base)
    with pytest.raises(TokenizerError, match="the run has no tokenizer of its own"):
        planned(run, "f16")
    {"fast": fast_tokenizer, "slow": slow_tokenizer}[kind](run, base)
    assert written(run) == ("<tool>", TEMPLATE)


def test_a_tokenizer_that_is_made_of_the_bases_is_the_bases(base: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(base, tmp_path / "base")
    (plain / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="the run has no tokenizer of its own"):
        planned(grown(tmp_path / "mine", plain), "f16")


def test_a_tokenizer_above_the_checkpoint_is_taken_and_said(base: Path, tmp_path: Path) -> None:
    inner = grown(tmp_path / "out" / "checkpoint-7", base)
    slow_tokenizer(tmp_path / "out", base)
    assert written(inner) == ("<tool>", TEMPLATE)
    assert open_run(inner).notes == (f"took the tokenizer of {tmp_path.name}/out",)
    assert open_run(tmp_path / "out").notes == ("took checkpoint-7, the last checkpoint",)


@pytest.mark.parametrize("given", ["", "global_step_5", "global_step_5/actor", "global_step_5/actor/lora_adapter"])
def test_verls_tokenizer_is_taken_from_beside_its_shards(given: str, base: Path, tmp_path: Path) -> None:
    actor = verl(tmp_path, 5)
    grown(actor / "lora_adapter", base)
    fast_tokenizer(actor / "huggingface", base)
    assert written(tmp_path / given) == ("<tool>", TEMPLATE)
    run = open_run(tmp_path / given)
    assert (run.trainer, run.notes[-1]) == ("verl", "took the tokenizer of actor/huggingface")


def test_a_merged_adapter_of_verl_has_the_tokenizer_above_it(base: Path, tmp_path: Path) -> None:
    merged = shutil.copytree(base, verl(tmp_path, 5) / "recovered")
    fast_tokenizer(merged, base)
    run = grown(merged / "lora_adapter", base)
    assert written(run) == ("<tool>", TEMPLATE)


# Which folders are the run's.


@pytest.mark.parametrize("name", ["lora_adapter", "actor", "huggingface", "actor/lora_adapter", "my_adapter"])
def test_a_folder_of_verls_name_does_not_make_all_around_it_a_run(name: str, base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "project" / name, base, {})
    write(run.parent / "README.md", card({"datasets": ["other/data"], "tags": ["axolotl", "qlora"]}))
    write(run.parent / "other.yaml", FACTORY | {"model_name_or_path": "org/Other-7B"})
    fast_tokenizer(run.parent, base)
    write(run.parent / "training_args.bin", "x")
    found = open_run(run)
    assert (found.trainer, found.dataset, found.four_bit, found.notes) == ("peft", None, None, ())
    assert found.tokenizer_files["tokenizer.json"].parent == base


@pytest.mark.parametrize("mark", ["lora_train_meta.json", "model_world_size_1_rank_0.pt"])
def test_a_copied_folder_of_verl_is_known_by_its_files(mark: str, base: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine" / mark, "{}")
    (tmp_path / "mine" / "huggingface").mkdir()
    fast_tokenizer(tmp_path / "mine" / "huggingface", base)
    assert written(grown(tmp_path / "mine" / "lora_adapter", base)) == ("<tool>", TEMPLATE)


# What a model of the Hub's cache is called.


def test_a_snapshots_path_is_called_as_its_repository(base: Path, cache: Path, tmp_path: Path) -> None:
    local = shutil.copytree(base, cached(cache, "org/Tiny-Llama-1B"), dirs_exist_ok=True)
    run = write_adapter(tmp_path / "mine", local, {})
    write(run / "README.md", card({"base_model": "org/Tiny-Llama-1B"}))
    assert open_run(run).base_name == open_run(run, base=str(local)).base_name == "org/Tiny-Llama-1B"
    plan = planned(run, "f16")
    assert plan.outputs[0].metadata["general.base_model.0.name"] == "Tiny-Llama-1B"
    assert COMMIT not in plan.outputs[0].file
    status, _, message = ran("merge", str(run), "--out", str(tmp_path / "merged"), "--quiet")
    assert status == 0, message
    said = json.loads((tmp_path / "merged" / "merge.json").read_text())["base"]
    assert (said["name"], said["revision"]) == ("org/Tiny-Llama-1B", COMMIT)
    whole = open_run(local)
    assert (whole.name, whole.base_name) == ("Tiny-Llama-1B", "org/Tiny-Llama-1B")


def test_a_repository_without_an_owner_is_one_name(base: Path, cache: Path, tmp_path: Path) -> None:
    local = shutil.copytree(base, cached(cache, "tiny"), dirs_exist_ok=True)
    run = write_adapter(tmp_path / "mine", local, {})
    write(run / "README.md", card({"base_model": "tiny"}))
    assert open_run(run).base_name == "tiny"


def test_modelscopes_spelling_of_a_dot_is_no_other_base(base: Path, tmp_path: Path) -> None:
    local = shutil.copytree(base, tmp_path / "hub" / "org" / "Tiny2___5-Llama")
    run = write_adapter(tmp_path / "mine", local, {})
    write(run / "train.yaml", FACTORY | {"model_name_or_path": "org/Tiny2.5-Llama"})
    assert open_run(run).base == local
    write(run / "train.yaml", FACTORY | {"model_name_or_path": "org/Tiny2.6-Llama"})
    with pytest.raises(RunError, match=r"org/Tiny2\.6-Llama by train\.yaml"):
        open_run(run)


# A folder has no revisions.


def test_a_revision_of_a_folder_is_refused(base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "mine", base, {}, revision="v1")  # PEFT's own word on the base is none of the user's
    assert open_run(run).base == base
    for option in ("--revision", "--base-revision"):
        for more in ([], ["--base", str(base)]):
            status, out, message = ran("inspect", str(run), option, "v9", *more)
            assert (status, out) == (2, "")
            assert f"is a folder here, which has no revisions; {option} v9 was given" in message
            assert f"Leave {option} out" in message
    status, _, message = ran("inspect", str(base), "--base-revision", "v9")
    assert status == 2
    assert "is a full model, not an adapter, so --base-revision v9 has no meaning" in message
    assert inspected(run)[0] == 0


def test_a_base_that_verls_merger_left_beside_its_adapter_is_not_taken_for_trained(base: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    shutil.copytree(base, merged)
    beside = write_adapter(merged / "lora_adapter", None, {})
    with pytest.raises(RunError, match=r"holds a whole model, and an adapter in lora_adapter, as verl's merger"):
        open_run(merged)
    assert open_run(beside, base=str(merged)).base == merged
    assert len(open_run(merged, adapters=(str(beside),)).adapters) == 1


@pytest.mark.parametrize(
    ("places", "name"),
    [
        ("runs/lora", "lora"), ("outputs/checkpoint-2", "checkpoint-2"), ("story/lora", "story"),
        ("story", "story"), ("saves/llama/lora/sft", "sft"),
    ],
)  # fmt: skip
def test_an_adapters_run_never_has_its_bases_name_alone(places: str, name: str, base: Path, tmp_path: Path) -> None:
    run = write_adapter(tmp_path / places, base, {})
    assert open_run(run).name == name
