"""PEFT's own layer of one module, built around its base weight as PEFT does when it loads a run, and merged."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from exporter.errors import MergeError
from exporter.merge.experts import LAYOUTS, parameter_of
from exporter.merge.keys import in_peft_form, part_of
from exporter.merge.skeleton import NAME, PREFIX, WITNESS, around, nothing, quietly, saved
from exporter.source.names import our_name, our_parts

if TYPE_CHECKING:
    import torch

    from converters.spec import Family
    from exporter.merge import Layer
    from exporter.merge.values import Change, Factors
    from exporter.run import Adapter

Weights = Mapping[str, "torch.Tensor"]
NONE = (
    "eva_config", "exclude_modules", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "modules_to_save", "target_modules", "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Fields of LoraConfig that say which modules are trained, or how training began: here there is one module."""


@dataclass(frozen=True)
class Laid:
    """One adapter: its files, what was read of it, and the family whose names it uses."""

    adapter: "Adapter"
    layer: "Layer"
    family: "Family"

    def tensor(self, name: str) -> "torch.Tensor":
        """A whole tensor of its file, in float32."""
        return self.layer.tensors.read(name, (slice(None),))


def needed(laid: Laid, weight: str) -> tuple[str, ...]:
    """Our names of the weights that PEFT's layer of a changed weight is made around: with a fused one, all in it."""
    change = laid.layer.changes.by_weight[weight]
    if change.whole is not None:
        return tuple(filter(None, (change.whole.weight, change.whole.bias)))
    if change.factors is not None and change.factors.expert is not None:
        return tuple(name for part in _fused(laid, change, change.factors) for name in part)
    bias = laid.layer.changes.by_weight.get(f"{weight.removesuffix('weight')}bias")
    both = bias is not None and bias.added is not None and change.factors is not None
    return (weight, bias.weight) if bias is not None and both else (weight,)


def in_double(laid: Laid, weight: str) -> bool:
    """Whether PEFT's layer is made in float64: DoRA on an embedding, whose lengths are sums over all tokens."""
    factors = laid.layer.changes.by_weight[weight].factors
    return factors is not None and factors.turned and factors.magnitude is not None


def live(laid: Laid, weight: str, before: Weights) -> dict[str, "torch.Tensor"]:
    """What PEFT makes of a changed weight, and of those that one layer holds with it, in float32.

    Args:
        laid: the adapter.
        weight: our name of it.
        before: whole weights without the adapter, by our names: those of ``needed``.

    Raises:
        MergeError: PEFT cannot build the layer.
    """
    change = laid.layer.changes.by_weight[weight]
    with quietly(weight, laid.adapter.weights):
        if change.whole is not None:
            bias = before.get(change.whole.bias or "")
            modules: Any = laid.layer.modules
            done = modules.merged(change.whole.module, before[change.whole.weight], bias)
            made = {change.whole.weight: done.weight} | (
                {str(change.whole.bias): done.bias} if bias is not None else {}
            )
            return {name: tensor for name, tensor in made.items() if tensor is not None}
        if change.factors is not None:
            fused = change.factors.expert is not None
            return (_experts if fused else _linear)(laid, change, change.factors, before)
        return {weight: _kept(laid, change, before[weight])}


def _linear(laid: Laid, change: "Change", factors: "Factors", before: Weights) -> dict[str, "torch.Tensor"]:
    """PEFT's LoRA layer of a linear module or an embedding, DoRA and a trained bias of lora_B with it."""
    weight = change.weight
    module = _module(laid, factors.a, weight)
    base = before[weight] if change.replaced_by is None else laid.tensor(change.replaced_by)
    name = f"{weight.removesuffix('weight')}bias"
    added = laid.layer.changes.by_weight[name].added if name in before else None
    config = _config(laid.adapter)
    config.target_modules = {module}
    bias = before[name].clone() if added is not None else None
    model = _wrapped(module, around(module, base.double() if in_double(laid, weight) else base.clone(), bias), config)
    form = "lora_embedding_{}" if factors.turned else "lora_{}.weight"
    tensors = {form.format("A"): factors.a, form.format("B"): factors.b, "lora_magnitude_vector": factors.magnitude}
    tensors |= {"lora_B.bias": added.vector if added else None}
    layer = _loaded(model, module, {end: laid.tensor(name) for end, name in tensors.items() if name})
    layer.scale_layer(laid.layer.weight)
    layer.merge(safe_merge=False)
    done = layer.get_base_layer()
    made = {weight: done.weight.detach().float()}
    return made | ({name: done.bias.detach()} if added is not None else {})


def _experts(laid: Laid, change: "Change", factors: "Factors", before: Weights) -> dict[str, "torch.Tensor"]:
    """PEFT's layer of a fused parameter of all experts, cut again into ours."""
    import torch  # noqa: PLC0415  (slow to import)

    if laid.layer.changes.by_weight and factors.expert is not None and factors.expert.grouped:
        raise MergeError(f"{laid.adapter.weights}: lora_B is packed as {LAYOUTS[1]}, and PEFT reads {LAYOUTS[0]} only.")
    module, _, parameter = _parameter(laid, change, factors).rpartition(".")
    parts = _fused(laid, change, factors)
    holder = torch.nn.Module()
    stack = torch.stack([torch.cat([before[name] for name in expert]) for expert in parts])
    holder.register_parameter(parameter, torch.nn.Parameter(stack, requires_grad=False))
    config = _config(laid.adapter)
    config.target_modules, config.target_parameters = [], [f"{module}.{parameter}"]
    tensors = {"lora_A.weight": laid.tensor(factors.a), "lora_B.weight": laid.tensor(factors.b)}
    layer = _loaded(_wrapped(module, holder, config), module, tensors)
    layer.scale_layer(laid.layer.weight)
    layer.merge(safe_merge=False)
    done = getattr(layer.get_base_layer(), parameter).detach()
    return {
        name: rows
        for expert, matrix in zip(parts, done, strict=True)
        for name, rows in zip(expert, matrix.chunk(len(expert)), strict=True)
    }


def _kept(laid: Laid, change: "Change", before: "torch.Tensor") -> "torch.Tensor":
    """What PEFT keeps of a module that was saved whole, or of which some tokens were trained: its wrapper's weight."""
    *_, parameter = change.weight.rpartition(".")
    config = _config(laid.adapter)
    config.target_modules = {WITNESS}
    if change.tokens is not None:
        module = _module(laid, change.tokens.rows, change.weight)
        config.trainable_token_indices = {module: list(change.tokens.ids)}
        names = {"token_adapter.trainable_tokens_delta": change.tokens.rows}
    else:
        if parameter != "weight" or change.replaced_by is None:
            raise MergeError(f"{change.weight}: a bias alone; PEFT has no layer of its own for it.")
        module = _module(laid, change.replaced_by, change.weight).removesuffix(".weight")
        config.modules_to_save = [module]
        names = {"weight": change.replaced_by}
    model = _wrapped(module, around(module, before.clone()), config, witness=True)
    tensors = {end: laid.tensor(name) for end, name in names.items()}
    _loaded(model, module, tensors, exactly=False)
    done = model.merge_and_unload().get_submodule(module)
    finished: torch.Tensor = done.weight.detach()
    return finished


def _config(adapter: "Adapter") -> Any:  # noqa: ANN401  (PEFT has no types)
    """PEFT's configuration of an adapter, for any one module."""
    from peft import LoraConfig  # noqa: PLC0415  (seconds to import)

    known = {field.name for field in fields(LoraConfig)} - {"peft_type", *NONE}
    config = LoraConfig(**{name: value for name, value in adapter.config.items() if name in known})
    config.bias, config.init_lora_weights, config.ensure_weight_tying = "none", True, False
    config.inference_mode = True
    return config


def _wrapped(module: str, layer: "torch.nn.Module", config: Any, *, witness: bool = False) -> Any:  # noqa: ANN401
    """PEFT's model of a tree that holds one module under its name, and beside it one to be targeted, if asked for."""
    import peft  # noqa: PLC0415
    import torch  # noqa: PLC0415

    tree = torch.nn.Module()
    *parents, last = module.split(".")
    inner = tree
    for name in parents:
        inner.add_module(name, torch.nn.Module())
        inner = inner.get_submodule(name)
    inner.add_module(last, layer)
    if witness:
        tree.add_module(WITNESS, around(WITNESS, nothing((1, 1)).clone()))
    return peft.PeftModel(tree, copy(config), NAME).eval()


def _loaded(model: Any, module: str, tensors: Weights, *, exactly: bool = True) -> Any:  # noqa: ANN401
    """PEFT's layer with the file's tensors in it; MergeError where they are not those that PEFT has for it."""
    from peft import set_peft_model_state_dict  # noqa: PLC0415

    state = {f"{PREFIX}{module}.{end}": tensor for end, tensor in tensors.items()}
    expected = set(saved(model, module))
    if exactly and expected != set(state):
        raise MergeError(f"PEFT's layer of {module} has {', '.join(sorted(expected))}, the file {', '.join(state)}.")
    set_peft_model_state_dict(model, state, NAME)
    return model.get_submodule(PREFIX + module)


def _module(laid: Laid, tensor: str, weight: str) -> str:
    """What the adapter, in PEFT's form, calls the module of a tensor."""
    spelled = _spelled(laid, tensor, lambda module: _is_of(laid, module, weight))
    return spelled.removesuffix(".weight") if spelled.endswith(".weight") else spelled


def _parameter(laid: Laid, change: "Change", factors: "Factors") -> str:
    """What the adapter, in PEFT's form, calls the fused parameter that a weight lies in."""

    def fits(module: str) -> bool:
        found = parameter_of(module, laid.adapter.config)
        return found is not None and any(_holds(part, change.weight) for part, _, _ in our_parts(found, laid.family))

    return str(parameter_of(_spelled(laid, factors.a, fits), laid.adapter.config))


def _spelled(laid: Laid, tensor: str, fits: Callable[[str], bool]) -> str:
    """The module of a tensor's name, by the first known way of writing it that fits."""
    config, path = laid.adapter.config, laid.adapter.weights

    def is_one(name: str) -> bool:
        try:
            return fits(part_of(name, config, path)[0])
        except MergeError:
            return False

    return part_of(in_peft_form([tensor], is_one)[tensor], config, path)[0]


def _is_of(laid: Laid, module: str, weight: str) -> bool:
    return weight in {our_name(module, laid.family), our_name(f"{module}.weight", laid.family)}


def _fused(laid: Laid, change: "Change", factors: "Factors") -> list[tuple[str, ...]]:
    """Our names of the weights in a fused parameter: of each expert its parts, in order."""
    parts = our_parts(_parameter(laid, change, factors), laid.family)
    templates = [name for name, _, _ in sorted(parts, key=lambda part: part[1])]
    count = factors.expert.count if factors.expert else 0
    return [tuple(name.replace("{e}", str(expert)) for name in templates) for expert in range(count)]


def _holds(template: str, weight: str) -> bool:
    """Whether a weight is one expert's of a template."""
    before, _, after = template.partition("{e}")
    return weight.startswith(before) and weight.endswith(after)
