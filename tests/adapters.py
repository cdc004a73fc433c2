"""Adapters that PEFT trains on tiny models, what PEFT makes of them, and what a run's source makes of them."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.spec import EMBEDDING, HEAD
from exporter.merge import Merged
from exporter.run import open_run
from exporter.source import open_source


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On so small matrices threads only wait for each other; the writer, too, multiplies on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Weights = dict[str, torch.Tensor]
ROWS = 64
"""The fewest rows the writer reads at once."""

# transformers 5 names of a module in memory -> our spelling; experts are taken apart in `by_our_names`.
SPELLED = ((r"^model\.language_model\.", "model."), (r"\.mlp\.gate\.weight$", ".block_sparse_moe.gate.weight"))
LEFT_OUT = ("model.vision_tower.", "model.multi_modal_projector.")


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings and progress bars of transformers and PEFT are not ours to test."""
    from transformers.utils import logging  # noqa: PLC0415  (seconds to import)

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _loaded(folder: Path) -> Any:  # noqa: ANN401  (transformers has no public type for it)
    import transformers  # noqa: PLC0415

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    with quiet():
        return getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()


def load(folder: Path, *, untied: bool = False, rows: int | None = None) -> Any:  # noqa: ANN401  (as above)
    """A model in float32; with a head of its own storage if `untied`, with so many rows of vocabulary if `rows`."""
    model = deepcopy(_loaded(folder))
    if rows is not None:
        with quiet():
            model.resize_token_embeddings(rows, mean_resizing=False)
    if untied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return model


def train(model: torch.nn.Module, folder: Path, *, save: Mapping[str, Any] | None = None, **fields: object) -> Path:
    """An adapter of a model as PEFT saves it, every trained parameter moved at random from where PEFT starts it.

    Args:
        model: what is trained; wrapped in place.
        folder: where to.
        save: options of `save_pretrained`.
        fields: of `LoraConfig`.
    """
    import peft  # noqa: PLC0415  (seconds to import)

    with quiet():
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**({"r": 4, "lora_alpha": 8} | fields)))
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(folder, **(save or {}))
    return folder


def store(adapter: Path, change: Mapping[str, torch.Tensor | None] | torch.dtype) -> Path:
    """Rewrite an adapter's file: in another type, or with some tensors replaced, added, or (None) taken away."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    file = adapter / "adapter_model.safetensors"
    tensors: dict[str, torch.Tensor | None] = dict(load_file(file))
    if isinstance(change, torch.dtype):
        tensors = {name: tensor.to(change) for name, tensor in tensors.items() if tensor is not None}
    else:
        tensors |= change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
    return adapter


def adapted(model: torch.nn.Module, adapter: Path) -> Any:  # noqa: ANN401  (peft is not typed)
    """A model with a stored adapter, as PEFT loads it; wrapped in place."""
    import peft  # noqa: PLC0415

    with quiet():
        return peft.PeftModel.from_pretrained(model, str(adapter)).eval()


def merged(model: torch.nn.Module, adapter: Path) -> Weights:
    """The weights that PEFT's `merge_and_unload` gives, by our names."""
    with quiet():
        return by_our_names(adapted(model, adapter).merge_and_unload().state_dict())


def by_our_names(state: Mapping[str, torch.Tensor]) -> Weights:
    """The text model's weights of a transformers 5 state in our spelling, Mixtral's experts one by one."""
    weights: Weights = {}
    for stored, tensor in state.items():
        name = stored
        for pattern, ours in SPELLED:
            name = re.sub(pattern, ours, name)
        experts = name.replace(".mlp.experts.", ".block_sparse_moe.experts.").rpartition(".")[0]
        if stored.startswith(LEFT_OUT):
            continue
        if name.endswith(".experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                gate, up = both.chunk(2)
                weights |= {f"{experts}.{expert}.w1.weight": gate, f"{experts}.{expert}.w3.weight": up}
        elif name.endswith(".experts.down_proj"):
            weights |= {f"{experts}.{expert}.w2.weight": down for expert, down in enumerate(tensor)}
        else:
            weights[name] = tensor
    return weights


def source_of(run: Path, base: Path | None = None) -> Merged:
    return open_source(open_run(run, base=str(base) if base else None))


def finished(source: Merged, rows: int = ROWS) -> Weights:
    """All weights of a source, read in slices of so many rows, a short rest with the one before."""
    return {
        name: torch.cat([source.read(name, start, stop) for start, stop in in_slices(shape[0], rows)])
        for name, shape in source.shapes().items()
    }


def in_slices(size: int, rows: int) -> list[tuple[int, int]]:
    """First and last row (not included) of each slice."""
    starts = range(0, max(size - rows + 1, 1), rows)
    return list(zip(starts, [*starts[1:], size], strict=True))


def largest_excess(found: Weights, expected: Weights, base: Weights) -> float:
    """How far the worst weight is off, in units of what `Equal to PEFT` allows; infinite where the names differ.

    Allowed: 2^-22 of the larger of the base weight's and its change's largest value. A head that the found weights
    lack is the embedding again.
    """
    found = {HEAD: found[EMBEDDING]} | found
    if found.keys() != expected.keys() or any(found[name].shape != expected[name].shape for name in found):
        return float("inf")
    worst = 0.0
    for name, tensor in expected.items():
        before = base[name] if base[name].shape == tensor.shape else torch.zeros_like(tensor)
        allowed = 2.0**-22 * float(torch.maximum(before.abs().max(), (tensor - before).abs().max()))
        worst = max(worst, float((found[name] - tensor).abs().max()) / allowed)
    return worst


PAIR = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.full((4, 64), 0.5),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.full((64, 4), 0.25),
}
"""The two tensors of a LoRA adapter of the smallest kind, for a model of 64 columns and 4 heads of 16."""


def write_adapter(
    folder: Path, base: Path | None, tensors: Mapping[str, torch.Tensor | None], **fields: object
) -> Path:
    """A run folder as PEFT writes it, with these tensors over `PAIR` (None takes one away) and fields of its config."""
    from safetensors.torch import save_file  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
    config["target_modules"] = ["layers.0.self_attn.q_proj"]
    config |= {"base_model_name_or_path": str(base) if base else None} | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))
    kept = {name: tensor for name, tensor in {**PAIR, **tensors}.items() if tensor is not None}
    save_file(kept, folder / "adapter_model.safetensors")
    return folder
