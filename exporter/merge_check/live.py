"""PEFT's own layer of one module, built around its base weight as PEFT does when it loads a run, and merged."""

from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from exporter.errors import MergeError
from exporter.merge.experts import LAYOUTS
from exporter.merge.skeleton import NAME, PREFIX, WITNESS, around, nothing, quietly, saved
from exporter.merge_check.laid import Laid, fused_parameter, fused_parts, fused_weights, module_of

if TYPE_CHECKING:
    import torch

    from exporter.merge.values import Change, Factors, Part, Whole
    from exporter.run import Adapter

Weights = Mapping[str, "torch.Tensor"]
NONE = (
    "eva_config", "exclude_modules", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config",
    "modules_to_save", "target_modules", "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Fields of LoraConfig that say which modules are trained, or how training began: here there is one module."""


def needed(laid: Laid, weight: str) -> tuple[str, ...]:
    """Our names of the weights that PEFT's layer of a changed weight is made around: with a fused one, all in it."""
    change = _made_by(laid, weight)
    if change.whole is not None:
        return tuple(filter(None, (change.whole.weight, change.whole.bias)))
    if change.factors is not None and change.factors.expert is not None:
        return tuple(name for part in fused_weights(laid, change, change.factors) for name in part)
    bias = laid.layer.changes.by_weight.get(f"{change.weight.removesuffix('weight')}bias")
    both = bias is not None and bias.added is not None and change.factors is not None
    return (change.weight, bias.weight) if bias is not None and both else (change.weight,)


def _made_by(laid: Laid, weight: str) -> "Change":
    """The change that PEFT's layer of a weight is made of: a trained bias of lora_B is in the layer of the weight."""
    changes = laid.layer.changes.by_weight
    change = changes[weight]
    return changes.get(f"{weight.removesuffix('bias')}weight", change) if change.added is not None else change


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
    change = _made_by(laid, weight)
    with quietly(weight, laid.adapter.weights):
        if change.whole is not None:
            return _whole(laid, change.whole, before)
        if change.factors is not None:
            fused = change.factors.expert is not None
            return (_experts if fused else _linear)(laid, change, change.factors, before)
        as_before = change.tokens is None and change.replaced_by is None  # a saved copy of what was there
        return {weight: before[weight] if as_before else _kept(laid, change, before[weight])}


def _whole(laid: Laid, whole: "Whole", before: Weights) -> dict[str, "torch.Tensor"]:
    """A module as PEFT merges it, or so much of its change as the adapter's factor says."""
    modules: Any = laid.layer.modules
    done = modules.merged(whole.module, before[whole.weight], before.get(whole.bias or ""))
    made = {name: tensor for name, tensor in ((whole.weight, done.weight), (whole.bias, done.bias)) if name}
    factor = laid.layer.weight
    if factor == 1:
        return {name: tensor for name, tensor in made.items() if tensor is not None}
    double = {name: before[name].double() for name, tensor in made.items() if tensor is not None}
    return {name: (start + factor * (made[name].double() - start)).float() for name, start in double.items()}


def _linear(laid: Laid, change: "Change", factors: "Factors", before: Weights) -> dict[str, "torch.Tensor"]:
    """PEFT's LoRA layer of a linear module or an embedding, DoRA and a trained bias of lora_B with it."""
    weight = change.weight
    module = module_of(laid, factors.a, weight)
    base = before[weight] if change.replaced_by is None else laid.tensor(change.replaced_by)
    if change.tokens is not None and change.tokens.first:
        base = _kept(laid, change, base)
    name = f"{weight.removesuffix('weight')}bias"
    bias_change = laid.layer.changes.by_weight.get(name)
    added = bias_change.added if bias_change is not None else None
    config = _config(laid.adapter)
    config.target_modules = {module}
    bias = before[name].clone() if added is not None else None
    turned = factors.conv1d
    base = base.double() if in_double(laid, weight) else base.clone()
    model = _wrapped(module, around(module, base, bias, turned=turned), config)
    form = "lora_embedding_{}" if factors.turned else "lora_{}.weight"
    tensors = {form.format("A"): factors.a, form.format("B"): factors.b, "lora_magnitude_vector": factors.magnitude}
    tensors |= {"lora_B.bias": added.vector if added else None}
    layer = _loaded(model, module, {end: laid.tensor(name) for end, name in tensors.items() if name})
    _scale(layer, laid.layer.weight)
    layer.merge(safe_merge=False)
    done = layer.get_base_layer()
    finished = done.weight.detach().float()
    made = {weight: finished.T if turned else finished}
    return made | ({name: done.bias.detach()} if added is not None else {})


def _experts(laid: Laid, change: "Change", factors: "Factors", before: Weights) -> dict[str, "torch.Tensor"]:
    """PEFT's layer of a fused parameter of all experts, cut again into ours."""
    import torch  # noqa: PLC0415  (slow to import)

    module, _, parameter = fused_parameter(laid, change, factors).rpartition(".")
    names, part = fused_weights(laid, change, factors), fused_parts(laid, change, factors)[0]
    holder: Any = torch.nn.Module()
    stack = torch.stack([_joined([before[name] for name in expert], part) for expert in names])
    holder.register_parameter(parameter, torch.nn.Parameter(stack, requires_grad=False))
    holder.is_transposed = part.turned is True and not factors.turned  # as transformers marks its own
    config = _config(laid.adapter)
    config.target_modules, config.target_parameters = [], [f"{module}.{parameter}"]
    a, b = _as_peft_packs(laid.tensor(factors.a), laid.tensor(factors.b), factors, as_stored=part.turned is True)
    layer = _loaded(_wrapped(module, holder, config), module, {"lora_A.weight": a, "lora_B.weight": b})
    _scale(layer, laid.layer.weight)
    layer.merge(safe_merge=False)
    done = getattr(layer.get_base_layer(), parameter).detach()
    return {
        name: rows
        for expert, matrix in zip(names, done, strict=True)
        for name, rows in zip(expert, _apart(matrix, len(expert), part), strict=True)
    }


def _joined(matrices: "list[torch.Tensor]", part: "Part") -> "torch.Tensor":
    """One expert's weights as the fused parameter holds them."""
    import torch  # noqa: PLC0415

    rows = torch.stack(matrices, dim=1).flatten(0, 1) if part.mixed else torch.cat(matrices)
    return rows.T if part.turned else rows


def _apart(matrix: "torch.Tensor", count: int, part: "Part") -> "list[torch.Tensor]":
    """One expert's weights out of the fused parameter."""
    rows = matrix.T if part.turned else matrix
    return [rows[k::count] for k in range(count)] if part.mixed else list(rows.chunk(count))


def _scale(layer: Any, factor: float) -> None:  # noqa: ANN401  (PEFT has no types)
    """Give an adapter a factor: PEFT's own ``scale_layer`` passes over one on an embedding."""
    layer.scaling[NAME] *= factor


def remade(laid: Laid, weight: str) -> str:
    """What was done to an adapter's tensors before PEFT was given them; nothing to most."""
    factors = laid.layer.changes.by_weight[weight].factors
    if factors is None or factors.expert is None:
        return ""
    packed = f"lora_B was {LAYOUTS[1]}, PEFT was given it as {LAYOUTS[0]}" if factors.expert.grouped else ""
    upright = fused_parts(laid, laid.layer.changes.by_weight[weight], factors)[0].turned is not True
    turned = "lora_A and lora_B were exchanged, as PEFT has them since 0.19" if factors.turned and upright else ""
    return "; ".join(filter(None, (packed, turned)))


def _as_peft_packs(
    a: "torch.Tensor", b: "torch.Tensor", factors: "Factors", *, as_stored: bool
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """A pair over all experts as the installed PEFT packs it: A is (experts, rank, columns), B (rows, rank, experts).

    B may be (rows, experts, rank) in the file, and each may have the other's side, as before PEFT 0.19: then they are
    exchanged, unless ``as_stored``.
    """
    count = factors.expert.count if factors.expert else 1
    by_expert = a.reshape(count, -1, a.shape[1])
    if factors.expert and factors.expert.grouped:
        b = b.reshape(len(b), count, -1).transpose(1, 2).reshape(b.shape)
    if as_stored or not factors.turned:
        return a, b.contiguous()
    columns = b.reshape(len(b), -1, count).permute(2, 1, 0)
    return columns.reshape(len(a), -1).contiguous(), by_expert.permute(2, 1, 0).reshape(a.shape[1], -1).contiguous()


def _kept(laid: Laid, change: "Change", before: "torch.Tensor") -> "torch.Tensor":
    """What PEFT keeps of a module that was saved whole, or of which some tokens were trained: its wrapper's weight."""
    config = _config(laid.adapter)
    config.target_modules = {WITNESS}
    if change.tokens is not None:
        module = module_of(laid, change.tokens.rows, change.weight)
        config.trainable_token_indices = {module: list(change.tokens.ids)}
        names = {"token_adapter.trainable_tokens_delta": change.tokens.rows}
    else:
        replaced_by = str(change.replaced_by)
        if change.weight.endswith("bias"):
            return _bias(laid, change.weight, replaced_by, before)
        module = module_of(laid, replaced_by, change.weight)
        config.modules_to_save = [module]
        names = {"weight": replaced_by}
    model = _wrapped(module, around(module, before.clone()), config, witness=True)
    tensors = {end: laid.tensor(name) for end, name in names.items()}
    _loaded(model, module, tensors, exactly=False)
    done = model.merge_and_unload().get_submodule(module)
    finished: torch.Tensor = done.weight.detach()
    return finished


def _bias(laid: Laid, bias: str, stored: str, before: "torch.Tensor") -> "torch.Tensor":
    """A bias as PEFT loads it: into the module itself, a copy that it saves, or a layer around it, by its name there.

    The weight beside it is nothing: no bias depends on one.
    """
    module = module_of(laid, stored, bias)
    config = _config(laid.adapter)
    config.use_dora = False
    inner = ".base_layer." in stored
    config.target_modules = {module if inner else WITNESS}
    if not inner and laid.adapter.config.get("bias", "none") == "none":
        config.modules_to_save = [module]
    no_weight = nothing((len(before), 1)).clone()
    model = _wrapped(module, around(module, no_weight, before.clone()), config, witness=not inner)
    tensors = {"base_layer.bias": laid.tensor(stored)} if inner else {"bias": laid.tensor(stored), "weight": no_weight}
    _loaded(model, module, tensors, exactly=False)
    finished: torch.Tensor = model.merge_and_unload().get_submodule(module).bias.detach()
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
