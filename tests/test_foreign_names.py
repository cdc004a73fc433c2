"""Names of an adapter's tensors in which several programs left their mark, one over the other."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from adapters import finished, load, one_thread, source_of, store, train
from safetensors.torch import load_file
from tiny import make

from exporter.errors import MergeError
from exporter.merge.keys import REWRITES

__all__ = ["one_thread"]
NAMED, WRAPPED, PARALLEL, TWICE, NONE, MODEL = (rewrite.what for rewrite in REWRITES)


def named(name: str) -> str:
    return name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")


def compiled_in_parallel(name: str) -> str:
    """The state of DistributedDataParallel(torch.compile(model)), as torch saves it."""
    return f"module._orig_mod.{named(name)}"


def sharded(name: str) -> str:
    """The same under FSDP with checkpointed layers, compiled first, and with the adapter's name."""
    inner = name.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.")
    return f"_fsdp_wrapped_module._orig_mod.module.{named(inner)}"


def inner_model(name: str) -> str:
    """The state of the model that PEFT wraps, taken out of a parallel one without its prefix."""
    return f"module.module.{named(name).removeprefix('base_model.model.')}"


def bare_model(name: str) -> str:
    """The same of the model without its head, compiled."""
    return f"module._orig_mod.{named(name).removeprefix('base_model.model.model.')}"


def wrapped_again(name: str) -> str:
    """PEFT's model wrapped by PEFT once more, in parallel."""
    return f"module.base_model.model.{named(name)}"


FORMS = {
    compiled_in_parallel: (NAMED, WRAPPED, PARALLEL),
    sharded: (NAMED, WRAPPED, PARALLEL),
    inner_model: (NAMED, PARALLEL, NONE),
    bare_model: (NAMED, WRAPPED, PARALLEL, NONE, MODEL),
    wrapped_again: (NAMED, PARALLEL, TWICE),
}
"""How a name is written, and the rewrites that it needs, all of them."""


@pytest.mark.parametrize("form", FORMS)
def test_several_rewrites_one_after_the_other_are_read_and_each_needs_its_row(
    form: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj", "down_proj"])
    expected = finished(source_of(run, base))
    stored = load_file(run / "adapter_model.safetensors")
    store(run, dict.fromkeys(stored) | {form(name): tensor for name, tensor in stored.items()})
    found = finished(source_of(run, base))
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
    for what in FORMS[form]:
        monkeypatch.setattr("exporter.merge.keys.REWRITES", tuple(one for one in REWRITES if one.what != what))
        with pytest.raises(MergeError):
            source_of(run, base)


def test_forms_of_two_programs_in_one_file_are_refused(tmp_path: Path) -> None:
    """One name is already as PEFT has it, its double is not: which of the two was trained is not known."""
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj"])
    stored = load_file(run / "adapter_model.safetensors")
    store(run, {compiled_in_parallel(name): tensor for name, tensor in stored.items()})
    with pytest.raises(MergeError, match=r"two tensors for one place|does not begin with"):
        source_of(run, base)


def test_an_adapters_name_with_a_hyphen_is_read(tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    run = train(load(base), tmp_path / "run", target_modules=["q_proj", "embed_tokens"])
    expected = finished(source_of(run, base))
    stored = load_file(run / "adapter_model.safetensors")
    forms = {re.sub(r"\.(lora_[A-Za-z_]+)", r".\1.my-ad 2", name): tensor for name, tensor in stored.items()}
    store(run, dict.fromkeys(stored) | forms)
    found = finished(source_of(run, base))
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())
