"""The merge as a view equals PEFT's `merge_and_unload` in float32, for whatever an adapter may hold."""

import json
import shutil
from itertools import product
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
    source_of,
    store,
    train,
    write_adapter,
)
from tiny import TINY, make

from converters.spec import EMBEDDING, HEAD
from exporter.errors import MergeError
from exporter.merge import Given, Layer, Merged
from exporter.merge.changes import read_changes
from exporter.run import open_run
from exporter.source.checkpoint import Checkpoint
from exporter.source.files import open_file
from exporter.source.names import Names, Weight

__all__ = ["one_thread"]
RANKS = {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6, "proj": 5}
ALPHAS = {"layers.0.self_attn.v_proj": 3, "(o|down)_proj": 20, "q_pro": 1000}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GRID = tuple(product((False, True), repeat=4))
# The models differ in names only: llama has all of the grid, each of the others every option once.
PAIRS = ((True, False, True, False), (False, True, False, True))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every model that is trained here, made once."""
    names = ("llama", "llama-bias", "qwen2", "gemma3", "gemma3-vision", "gemma3-vision-v5", "mixtral", "mixtral-fused")
    folder = tmp_path_factory.mktemp("bases")
    return {name: make(name, folder / name) for name in (*names, "mixtral-experts")}


def same(base: Path, adapter: Path, **loading: Any) -> Merged:  # noqa: ANN401  (options of load)
    """Compare our view of an adapter with PEFT's merge; the view, for more."""
    source = source_of(adapter, base)
    # What PEFT adds to one of two tied matrices, its merge adds to the storage of both.
    targets = json.dumps(json.loads((adapter / "adapter_config.json").read_text())["target_modules"])
    untied = "embed_tokens" in targets or "lm_head" in targets
    before = by_our_names(load(base).state_dict())
    expected = merged(load(base, untied=untied, **loading), adapter)
    found = finished(source)
    assert largest_excess(found, expected, before) <= 1
    changed = {name for name, tensor in found.items() if not tensor.equal(before[name])}
    assert changed == {name for name, delta in source.deltas().items() if delta.change > 0}
    for name in changed:
        if found[name].shape == before[name].shape:
            relative = float((found[name] - before[name]).norm() / before[name].norm())
            assert source.deltas()[name].relative == pytest.approx(relative, rel=1e-5)
    assert source.changes.tensors == len(_names(adapter))
    return source


def _names(adapter: Path) -> list[str]:
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as opened:
        return list(opened.keys())


@pytest.mark.parametrize("options", GRID)
def test_options_of_scale_equal_peft(options: tuple[bool, ...], bases: dict[str, Path], tmp_path: Path) -> None:
    _grid(bases["llama"], options, tmp_path)


@pytest.mark.parametrize("options", PAIRS)
@pytest.mark.parametrize("name", ["qwen2", "gemma3", "gemma3-vision", "mixtral"])
def test_every_layout_of_names_equals_peft(
    name: str, options: tuple[bool, ...], bases: dict[str, Path], tmp_path: Path
) -> None:
    source = _grid(bases[name], options, tmp_path)
    vision = [entry for entry in _names(tmp_path) if "vision_tower" in entry]
    assert bool(vision) == (name == "gemma3-vision")
    assert list(source.changes.left_out) == vision


def _grid(base: Path, options: tuple[bool, ...], folder: Path) -> Merged:
    rslora, ranks, alphas, turned = options
    fields = {"rank_pattern": RANKS if ranks else {}, "alpha_pattern": ALPHAS if alphas else {}}
    train(load(base), folder, target_modules=LINEAR, use_rslora=rslora, fan_in_fan_out=turned, **fields)
    if turned:  # PEFT writes what it was given, or what it made of it, depending on its version
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"fan_in_fan_out": True}))
    return same(base, folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_adapters_equal_peft(dtype: torch.dtype, bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules="all-linear", modules_to_save=["lm_head"])
    same(bases["llama"], store(tmp_path, dtype))


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("llama", ["norm", "lm_head"]),  # `norm` ends the names of all norms, so PEFT saves all of them
        ("llama", ["embed_tokens", "model.norm"]),
        ("llama-bias", ["mlp", "o_proj", "v_proj"]),
        ("qwen2", ["embed_tokens", "lm_head", "k_proj"]),
        ("gemma3", ["q_norm", "post_feedforward_layernorm", "lm_head"]),
        ("gemma3-vision", ["embed_tokens", "norm"]),
    ],
)
def test_modules_to_save_equal_peft(name: str, saved: list[str], bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases[name]), tmp_path, target_modules=["q_proj", "gate_proj"], modules_to_save=saved)
    replaced = {
        change.weight for change in same(bases[name], tmp_path).changes.by_weight.values() if change.replaced_by
    }
    assert len(replaced) >= len(saved)


def test_modules_to_save_alone_changes_the_model(bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases["llama"]), tmp_path, target_modules=["q_proj"], modules_to_save=["lm_head"])
    store(tmp_path, {name: None for name in _names(tmp_path) if "lora_" in name})
    assert set(same(bases["llama"], tmp_path).changes.by_weight) == {HEAD}


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("targets", [["q_proj"], ["embed_tokens", "q_proj"], ["lm_head", "embed_tokens"]])
def test_saved_embeddings_equal_peft(targets: list[str], name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    train(load(bases[name]), tmp_path, target_modules=targets, save={"save_embedding_layers": True})
    spelled = ".embed_tokens.base_layer.weight" if "embed_tokens" in targets else ".embed_tokens.weight"
    assert any(entry.endswith(spelled) for entry in _names(tmp_path))
    same(bases[name], tmp_path)


@pytest.mark.parametrize("saved", [None, ["embed_tokens"], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize(("name", "grown"), [("llama", 7), ("qwen2", 200)])
def test_a_resized_vocabulary_equals_peft(
    name: str, grown: int, saved: list[str] | None, request: pytest.FixtureRequest
) -> None:
    bases, tmp_path = request.getfixturevalue("bases"), request.getfixturevalue("tmp_path")
    rows = TINY[name].config["vocab_size"] + grown
    targets = ["q_proj"] if saved else ["embed_tokens", "lm_head"]
    train(load(bases[name], rows=rows), tmp_path, target_modules=targets, modules_to_save=saved)
    # PEFT saves all that its wrappers hold: before and after training, and the latter twice.
    assert bool(saved) == any(".original_module." in entry for entry in _names(tmp_path))
    source = same(bases[name], tmp_path, rows=rows)
    assert source.shapes()[EMBEDDING] == (rows, 64)
    assert source.deltas()[EMBEDDING].relative > 0


def test_a_bin_adapter_is_read_like_safetensors(bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    train(load(bases["llama"]), tmp_path, target_modules="all-linear")
    expected = finished(source_of(tmp_path, bases["llama"]))
    file = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    found = finished(source_of(tmp_path, bases["llama"]))
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ["gemma3-vision", "gemma3-vision-v5"])
@pytest.mark.parametrize("spelled", ["language_model.model.", "model.language_model."])
def test_either_spelling_of_a_wrapped_text_model_is_one(
    name: str, spelled: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    train(load(bases[name]), tmp_path, target_modules=["q_proj", "embed_tokens"], exclude_modules=".*vision.*")
    expected = merged(load(bases[name], untied=True), tmp_path)
    from safetensors.torch import load_file  # noqa: PLC0415

    before = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {key.replace("model.language_model.", spelled): tensor for key, tensor in before.items()}
    store(tmp_path, dict.fromkeys(before) | renamed)
    found = finished(source_of(tmp_path, bases[name]))
    assert largest_excess(found, expected, by_our_names(load(bases[name]).state_dict())) <= 1


def modules(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A tree of linear layers with these names: what transformers 4 made of Mixtral, as far as PEFT sees it."""
    root = torch.nn.Module()
    for name, weight in weights.items():
        *path, last, _ = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = torch.nn.Parameter(weight.clone())
        place.add_module(last, linear)
    return root


@pytest.mark.parametrize("spelled", ["mixtral", "mixtral-experts"])
def test_expert_adapters_equal_peft_in_every_layout(spelled: str, bases: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    stored = load_file(bases[spelled] / "model.safetensors")
    layers = {name: tensor for name, tensor in stored.items() if ".layers." in name and tensor.ndim == 2}
    ranks = {r"experts\.2\.(w1|gate_proj)": 3, "experts.0.*": 6}
    train(modules(layers), tmp_path, target_modules=r".*\.(\w+_proj|gate|w\d)", rank_pattern=ranks, use_rslora=True)
    trained = adapted(modules(layers), tmp_path).merge_and_unload().state_dict()
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    before = by_our_names(load(bases["mixtral"]).state_dict())
    expected = before | {
        ".".join(names.get(part, part) for part in name.replace(".mlp.", ".block_sparse_moe.").split(".")): tensor
        for name, tensor in trained.items()
    }
    for layout in ("mixtral", "mixtral-experts", "mixtral-fused"):
        assert largest_excess(finished(source_of(tmp_path, bases[layout])), expected, before) <= 1
    assert sum(not tensor.equal(before[name]) for name, tensor in expected.items()) == len(layers)


@pytest.mark.parametrize("shape", [(1600, 1024), (4096, 96), (130, 2048)])
def test_slices_of_a_large_matrix_equal_the_whole_product(shape: tuple[int, int], tmp_path: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    name, threads = "model.layers.0.mlp.up_proj.weight", torch.get_num_threads()
    before = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) / 32}
    save_file(before, tmp_path / "model.safetensors")
    train(modules(before), tmp_path, r=16, lora_alpha=37, target_modules=["up_proj"])
    torch.set_num_threads(2)
    expected = adapted(modules(before), tmp_path).merge_and_unload().state_dict()
    torch.set_num_threads(threads)
    base = Checkpoint(open_file(tmp_path / "model.safetensors"), Names({name: Weight(name, shape, "F32")}, ()))
    tensors = open_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    sizes = {key: stored.shape for key, stored in tensors.tensors.items()}
    changes = read_changes(Given(config, sizes, tmp_path, base.shapes(), str))
    view = Merged(base, [Layer(tensors, changes)], tied=False)
    for rows in (64, 448, 1 << 20):
        parts = [view.read(name, start, stop) for start, stop in in_slices(shape[0], rows)]
        change = float((expected[name] - before[name]).abs().max())
        allowed = 2.0**-22 * max(change, float(before[name].abs().max()))
        assert float((torch.cat(parts) - expected[name]).abs().max()) <= allowed


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
SLOW = (".*" * 6 + "x", "(?:a|b|c)" * 16, "a?" * 30, r"(.)\1", "(?=a)", "x" * 1001, "a)|(b")
ODD: tuple[tuple[dict[str, torch.Tensor | None], dict[str, object], str], ...] = (
    ({KEY.format("A"): torch.ones(4, 64, 1)}, {}, r"lora_A.* is \[4, 64, 1\] .* expected two matrices"),
    ({KEY.format("B"): torch.ones(4)}, {}, r"lora_B.* is \[4\], expected two matrices"),
    ({}, {"lora_alpha": 0}, "changes nothing of the exported model: .* or its lora_alpha is"),
    ({}, {"lora_alpha": float("nan")}, "lora_alpha is NaN, expected a number"),
    ({}, {"layers_to_transform": [1]}, r"layers\.0\.self_attn\.q_proj, but layers_to_transform .* is \[1\]"),
    ({}, {"layers_to_transform": 1}, r"layers\.0\.self_attn\.q_proj, but layers_to_transform .* is 1"),
    ({}, {"rank_pattern": {"(q_proj": 4}}, r"rank_pattern holds .*\(q_proj.*, no regular expression"),
    ({}, {"rank_pattern": {"(a+)+": 4}}, r"rank_pattern holds '\(a\+\)\+', .* Write the modules' names instead, a key"),
    *(({}, {"alpha_pattern": {key: 4}}, "alpha_pattern holds .* that may take for ever") for key in SLOW),
)


@pytest.mark.parametrize(("tensors", "fields", "message"), ODD)
def test_an_adapter_that_contradicts_itself_is_refused(
    tensors: dict[str, torch.Tensor | None], fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    base = make("llama", tmp_path / "base")
    with pytest.raises(MergeError, match=message):
        source_of(write_adapter(tmp_path / "run", base, tensors, **fields), base)


@pytest.mark.parametrize("layers", [0, [0, 1], [], None])
def test_layers_to_transform_that_hold_the_tensors_are_taken(layers: object, tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    source = source_of(write_adapter(tmp_path / "run", base, {}, layers_to_transform=layers), base)
    assert set(source.changes.by_weight) == {"model.layers.0.self_attn.q_proj.weight"}


def test_the_adapters_revision_is_its_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make("llama", tmp_path / "base")
    cache = tmp_path / "cache"
    for revision in ("main", "v2"):
        commit = {"main": "a", "v2": "b"}[revision] * 40
        shutil.copytree(base, cache / "models--org--base" / "snapshots" / commit)
        (cache / "models--org--base" / "refs").mkdir(exist_ok=True)
        (cache / "models--org--base" / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run = write_adapter(tmp_path / "run", None, {}, base_model_name_or_path="org/base", revision="v2")
    assert open_run(run).base.name == "b" * 40
    assert open_run(run, base_revision="main").base.name == "a" * 40
    assert open_run(run, base="org/base").base.name == "a" * 40
