"""PEFT's model of one module: its own layer around one weight, in a tree that holds nothing else."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

from exporter.errors import MergeError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

ROOT = "base_model."
PREFIX = "base_model.model."
NAME = "default"
EMBEDDINGS = {"embed_tokens", "embed_tokens_per_layer", "wte", "wpe", "tok_embeddings", "embed_in"}
"""What families call modules that look rows up."""
WITNESS = "ggufx_widest"
"""A module without memory beside the one that is merged: what a method shares is sized by the widest of all."""
# What PEFT and torch raise for an adapter that is not as they expect it.
FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, re.error,
)  # fmt: skip


def build(module: str, layer: "torch.nn.Module", config: Any, widest: tuple[int, ...] | None) -> Any:  # noqa: ANN401
    """PEFT's model (it has no types) of one module, its adapter as PEFT starts it, ready to be merged.

    Args:
        module: its name in the whole model: patterns of the configuration go by it.
        layer: the module.
        config: PEFT's configuration, for any modules.
        widest: rows and columns of the witness, where the method needs one.
    """
    import peft  # noqa: PLC0415

    tree = tree_of(module, layer)
    config = copy(config)
    config.target_modules = {module}
    if widest is not None:
        tree.add_module(WITNESS, around(WITNESS, nothing(widest)))
        config.target_modules = {module, WITNESS}
    if config.peft_type == "ADALORA" and config.rank_pattern:
        config.rank_pattern = {key: kept for key, kept in config.rank_pattern.items() if key.startswith(f"{module}.")}
    return peft.PeftModel(tree, config, NAME).eval()


def tree_of(module: str, layer: "torch.nn.Module") -> "torch.nn.Module":
    """A tree that holds one module, under its name in the whole model."""
    import torch  # noqa: PLC0415

    tree = torch.nn.Module()
    *parents, last = module.split(".")
    inner = tree
    for name in parents:
        inner.add_module(name, torch.nn.Module())
        inner = inner.get_submodule(name)
    inner.add_module(last, layer)
    return tree


def saved(model: Any, module: str) -> dict[str, "torch.Tensor"]:  # noqa: ANN401
    """What PEFT would save of the model, without the witness."""
    from peft import get_peft_model_state_dict  # noqa: PLC0415

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    mine = (f"{PREFIX}{module}.", f"{ROOT}model.")
    return {name: tensor for name, tensor in state.items() if name.startswith(mine[0]) or not name.startswith(mine[1])}


def around(
    module: str, weight: "torch.Tensor", bias: "torch.Tensor | None" = None, *, turned: bool = False
) -> "torch.nn.Module":
    """A torch module around a weight: a norm for a vector, an embedding by its name, else a linear layer.

    ``turned``: the layer is transformers' Conv1D, and its weight the one given turned over.
    """
    import torch  # noqa: PLC0415

    with torch.device("meta"):  # no memory for weights that are replaced at once
        if weight.dim() == 1:
            layer: torch.nn.Module = torch.nn.LayerNorm(weight.shape[0], bias=bias is not None)
        elif turned:
            layer, weight = _conv1d(*weight.shape), weight.T.contiguous()
        elif module.rpartition(".")[2] in EMBEDDINGS:
            layer = torch.nn.Embedding(*weight.shape)
        else:
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.register_parameter("weight", torch.nn.Parameter(weight, requires_grad=False))
    if bias is not None:
        layer.register_parameter("bias", torch.nn.Parameter(bias, requires_grad=False))
    return layer


def _conv1d(rows: int, columns: int) -> "torch.nn.Module":
    """A layer of transformers with a weight of (columns, rows)."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415  (slow to import)

    layer: torch.nn.Module = Conv1D(rows, columns)
    return layer


def nothing(shape: tuple[int, ...]) -> "torch.Tensor":
    """Zeros of any shape in the memory of one."""
    import torch  # noqa: PLC0415

    return torch.zeros(()).expand(shape)


@contextmanager
def quietly(what: str, path: "Path") -> Iterator[None]:
    """PEFT's warnings left out, the random generator as it was, no gradients, and its errors as MergeError."""
    import torch  # noqa: PLC0415

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            yield
        except FAULTS as error:
            raise MergeError(
                f"{path}: PEFT cannot merge {what}: {str(error).partition(chr(10))[0]} ({type(error).__name__}). Check "
                "that adapter_config.json and the base are those of the training run."
            ) from error
