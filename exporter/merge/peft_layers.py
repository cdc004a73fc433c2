"""The methods that PEFT merges itself: its own layer, built around one weight at a time, and dropped again."""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from exporter.errors import MergeError
from exporter.merge.fields import other_base
from exporter.merge.lora import matched
from exporter.merge.methods import (
    ADDS,
    AGAIN,
    BIAS,
    HEAVY,
    ONLY_BIAS,
    RENAMED,
    WIDEST,
    check_method,
    check_options,
    check_sizes,
)
from exporter.merge.peft_config import COUNTED, OURS, check_counted, check_targeted, configure, today
from exporter.merge.skeleton import NAME, PREFIX, ROOT, around, build, nothing, quietly, saved

if TYPE_CHECKING:
    from pathlib import Path

    import torch


@dataclass(frozen=True)
class Stored:
    """An adapter of one of these methods, as its files hold it."""

    config: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]
    """Of all tensors of its file."""
    read: Callable[[str], "torch.Tensor"]
    """A whole tensor, in the type it is stored in: indices are integers."""
    path: "Path"


@dataclass(frozen=True)
class Parts:
    """Whose an adapter's tensors are; each is of one module, or of all, or not of the method."""

    modules: Mapping[str, tuple[str, ...]]
    """Tensors by the module that they change, as the adapter calls it."""
    shared: tuple[str, ...]
    """Banks and vectors that all modules use."""
    others: tuple[str, ...]
    """Saved copies and trained biases of modules: whole tensors, which the method has nothing to do with."""


@dataclass(frozen=True)
class Module:
    """A module of the base: the shape of its weight, (rows, columns) or a vector's, and whether it has a bias."""

    shape: tuple[int, ...]
    bias: bool = False
    turned: bool = False
    """It is transformers' Conv1D, which holds its weight turned over."""


@dataclass(frozen=True)
class Finished:
    """What training made of a module, in float32; no bias where none was given."""

    weight: "torch.Tensor"
    bias: "torch.Tensor | None"


def share_out(adapter: Stored) -> Parts:
    """Whose the tensors of an adapter are. MergeError for a method that is not merged, or an empty tensor."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING  # noqa: PLC0415  (seconds to import)

    method = check_method(adapter.config.get("peft_type"), adapter.path)
    # VeRA's and PVeRA's says more than that; what their modules share begins with the method's name alone.
    prefix = f"{method.lower()}_" if method in RENAMED else PEFT_TYPE_TO_PREFIX_MAPPING[method]
    mark = f".{prefix.removesuffix('lambda_')}"
    modules: dict[str, tuple[str, ...]] = {}
    shared, others = [], []
    for name, shape in adapter.shapes.items():
        module, found, _ = name.rpartition(mark)
        if not found:
            others.append(name)
        elif 0 in shape:
            raise MergeError(
                f"{adapter.path}: {name} is {list(shape)}: the parameters were not gathered when the run was saved "
                "under DeepSpeed ZeRO-3 or FSDP. Run zero_to_fp32.py on the checkpoint, or save once more."
            )
        elif f"{module}." == ROOT:
            shared.append(name)
        else:
            if not module.startswith(PREFIX):
                raise MergeError(
                    f"{adapter.path}: the tensor {name} does not begin with {PREFIX!r}, so it is not as PEFT saves it."
                )
            module = module.removeprefix(PREFIX)
            modules[module] = (*modules.get(module, ()), name)
    return Parts(modules, tuple(shared), tuple(others))


class PeftModules:
    """An adapter's changes of whole modules. Holds its configuration and names; nothing of a weight's size."""

    def __init__(self, adapter: Stored, parts: Parts, base: Mapping[str, Module], config: Any) -> None:  # noqa: ANN401  (PEFT has no types)
        self._adapter = adapter
        self._base = base
        self._config = config
        self._lock = threading.Lock()  # PEFT and torch draw from one generator, and warnings have one filter
        self.method = str(adapter.config["peft_type"])
        self.parts = parts
        self.modules = tuple(parts.modules)
        self.largest = max(prod(base[module].shape) for module in parts.modules)
        """Numbers of the largest weight."""
        self.changes_bias = self.method in BIAS
        """Whether ``merged`` must be given the bias of a module that has one."""
        self.changes_weight = self.method not in ONLY_BIAS
        self.adds = self.method in ADDS
        """Whether it adds to a weight what does not depend on the weight, so that other adapters may add to it too."""

    def merged(self, module: str, weight: "torch.Tensor", bias: "torch.Tensor | None" = None) -> Finished:
        """A module's finished weight and bias, by PEFT's own merge.

        Meanwhile it holds two to six times the weight's size; RoAd builds matrices of rows x rows.

        Args:
            module: one of ``modules``.
            weight: the base's whole weight in float32; not written to.
            bias: the base's bias; needed where the method changes it.

        Raises:
            MergeError: PEFT cannot make the layer, or the file lacks a tensor of it, or has one too many.
        """
        place = self._base[module]
        if place.shape != tuple(weight.shape) or (self.changes_bias and place.bias != (bias is not None)):
            raise MergeError(
                f"{self._adapter.path}: {module} was given with another shape, or without its bias, than it was opened "
                "with. Report this with the adapter's configuration."
            )
        with self._lock, quietly(module, self._adapter.path):
            own = None if bias is None else bias.clone()
            model = self._build(module, around(module, weight.clone(), own, turned=place.turned))
            self._load(model, module)
            layer = model.get_submodule(PREFIX + module)
            layer.merge(safe_merge=False)
            done = layer.get_base_layer()
            finished = done.weight.detach().T if place.turned else done.weight.detach()
            return Finished(finished.contiguous(), None if bias is None else done.bias.detach())

    def check(self, module: str) -> None:
        """MergeError where the file's tensors of a module do not fit the base's weight; reads none of both."""
        if self.method in HEAVY:
            return
        with self._lock, quietly(module, self._adapter.path), self._without_memory():
            empty = nothing(self._base[module].shape)
            turned = self._base[module].turned
            model = self._build(module, around(module, empty, self._no_bias(module), turned=turned))
            expected = {name: tuple(tensor.shape) for name, tensor in saved(model, module).items()}
        found = {name: self._adapter.shapes[stored] for name, stored in self._names(module).items()}
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise MergeError(self._misfit(module, name, found.get(name), expected.get(name)))

    def _without_memory(self) -> AbstractContextManager[object]:
        """Where a layer is made of which only the sizes matter: PEFT goes by the configuration, which may say any."""
        import torch  # noqa: PLC0415  (slow to import)

        counted = self.method in COUNTED or (self.method == "ADALORA" and self._config.rank_pattern)
        return nullcontext() if counted else torch.device("meta")

    def _misfit(self, module: str, name: str, found: tuple[int, ...] | None, expected: tuple[int, ...] | None) -> str:
        """The message for a tensor of another shape than the base and the configuration give it."""
        is_there = "is not there" if found is None else f"is {list(found)}"
        wanted = "no such tensor" if expected is None else f"it as {list(expected)}"
        return (
            f"{self._adapter.path}: {name} {is_there}; expected {wanted}, for the base's weight "
            f"{list(self._base[module].shape)} and the fields of adapter_config.json. Its two files are of different "
            f"runs, or: {other_base(self._adapter.config)}"
        )

    def _no_bias(self, module: str) -> "torch.Tensor | None":
        """What stands for a module's bias while only sizes matter."""
        return nothing(self._base[module].shape[:1]) if self._base[module].bias else None

    def _names(self, module: str) -> dict[str, str]:
        """The file's names of all tensors that a module needs, by what the installed PEFT calls them."""
        now = today(self.method).lower()
        names = *self.parts.shared, *self.parts.modules[module]
        return {
            name.replace(f".{self.method.lower()}_", f".{now}_") if self.method in RENAMED else name: name
            for name in names
        }

    def _build(self, module: str, layer: "torch.nn.Module") -> Any:  # noqa: ANN401
        shapes = [self._base[name].shape for name in self.modules]
        widest = tuple(max(sizes) for sizes in zip(*shapes, strict=True)) if self.method in WIDEST else None
        return build(module, layer, self._config, widest)

    def _load(self, model: Any, module: str) -> None:  # noqa: ANN401
        """Put the file's tensors into PEFT's model; MergeError unless they are exactly those that PEFT would save."""
        from peft import set_peft_model_state_dict  # noqa: PLC0415

        names = self._names(module)
        set_peft_model_state_dict(model, {name: self._adapter.read(stored) for name, stored in names.items()}, NAME)
        expected = set(saved(model, module))
        if expected != set(names):
            raise MergeError(
                f"{self._adapter.path}: PEFT's layer of {module} has the tensors {', '.join(sorted(expected))}; the "
                f"file differs in {', '.join(sorted(expected.symmetric_difference(names)))}. Save the adapter again."
            )


def open_modules(adapter: Stored, base: Mapping[str, Module]) -> PeftModules:
    """An adapter of a method other than LoRA, ready to be merged module by module. Reads no tensor.

    Args:
        adapter: its files.
        base: the module behind every name of ``share_out(adapter).modules``, those that are not exported too: the size
            of a shared bank follows from all.

    Raises:
        MergeError: what cannot be merged exactly, or does not fit the base.
    """
    parts = share_out(adapter)
    config = configure(adapter)
    check_options(str(adapter.config["peft_type"]), config, len(parts.shared), adapter.path)
    if not parts.modules:
        raise MergeError(
            f"{adapter.path}: holds no tensor of the method {adapter.config['peft_type']}. Save the adapter again."
        )
    for module in parts.modules:
        check_targeted(adapter, module, base.get(module))
    weights = [module.shape for module in base.values()]
    check_sizes(adapter.config, max(prod(shape) for shape in (*weights, *adapter.shapes.values())), adapter.path)
    with quietly("adapter_config.json", adapter.path):
        check_counted(adapter, config)
    opened = PeftModules(adapter, parts, base, config)
    patterns = [name for name in adapter.config if name.endswith("_pattern") and name not in OURS]
    alike: dict[object, str] = {}
    for module, names in parts.modules.items():
        shapes = sorted((name.removeprefix(PREFIX + module), adapter.shapes[name]) for name in names)
        said = [repr(matched(adapter.config, name, module, None)) for name in patterns]
        alike.setdefault((base[module], tuple(shapes), tuple(said)), module)
    for module in alike.values():
        opened.check(module)
    return opened


def notes(opened: PeftModules) -> tuple[str, ...]:
    """What a reader of the report should know: what is not in the file and was made again, as PEFT makes it."""
    made = AGAIN.get(opened.method)
    if opened.method in WIDEST and not opened.parts.shared:
        made = "its projections are drawn again from the seed in adapter_config.json"
    return (f"{opened.method}: {made}",) if made else ()
