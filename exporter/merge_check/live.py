"""PEFT's own layer of one module, built around its base weight as PEFT does when it loads a run, and merged."""

from typing import TYPE_CHECKING, Any

from exporter.merge.experts import LAYOUTS
from exporter.merge.skeleton import NAME, around, quietly
from exporter.merge_check.kept import kept
from exporter.merge_check.laid import Laid, fused_parameter, fused_parts, fused_weights, module_of
from exporter.merge_check.wrapped import Weights, config_of, loaded, wrapped

if TYPE_CHECKING:
    import torch

    from exporter.merge.values import Change, Factors, Part, Whole


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
        return {weight: before[weight] if as_before else kept(laid, change, before[weight])}


def _whole(laid: Laid, whole: "Whole", before: Weights) -> dict[str, "torch.Tensor"]:
    """A module as PEFT merges it, or so much of its change as the adapter's factor says."""
    modules: Any = laid.layer.modules
    over = laid.layer.changes.by_weight[whole.weight].replaced_by
    weight = before[whole.weight] if over is None else laid.tensor(over)
    done = modules.merged(whole.module, weight, before.get(whole.bias or ""))
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
        base = kept(laid, change, base)
    name = f"{weight.removesuffix('weight')}bias"
    bias_change = laid.layer.changes.by_weight.get(name)
    added = bias_change.added if bias_change is not None else None
    config = config_of(laid.adapter)
    config.target_modules = {module}
    bias = before[name].clone() if added is not None else None
    trained = bias_change.replaced_by if bias_change is not None and added is not None else None
    if trained is not None:
        config.bias = laid.adapter.config["bias"]
    turned = factors.conv1d
    base = base.double() if in_double(laid, weight) else base.clone()
    model = wrapped(module, around(module, base, bias, turned=turned), config)
    form = "lora_embedding_{}" if factors.turned else "lora_{}.weight"
    tensors = {form.format("A"): factors.a, form.format("B"): factors.b, "lora_magnitude_vector": factors.magnitude}
    tensors |= {"lora_B.bias": added.vector if added else None, "base_layer.bias": trained}
    layer = loaded(model, module, {end: laid.tensor(name) for end, name in tensors.items() if name})
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
    config = config_of(laid.adapter)
    config.target_modules, config.target_parameters = [], [f"{module}.{parameter}"]
    a, b = _as_peft_packs(laid.tensor(factors.a), laid.tensor(factors.b), factors, as_stored=part.turned is True)
    layer = loaded(wrapped(module, holder, config), module, {"lora_A.weight": a, "lora_B.weight": b})
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
