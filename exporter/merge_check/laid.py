"""An adapter beside the family whose names it uses: what PEFT calls the module of each of its tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import MergeError
from exporter.merge.experts import parameter_of
from exporter.merge.keys import in_peft_form, part_of
from exporter.source.names import our_name, our_parts

if TYPE_CHECKING:
    import torch

    from converters.spec import Family
    from exporter.merge import Layer
    from exporter.merge.values import Change, Factors, Part
    from exporter.run import Adapter


@dataclass(frozen=True)
class Laid:
    """One adapter: its files, what was read of it, and the family whose names it uses."""

    adapter: "Adapter"
    layer: "Layer"
    family: "Family"

    def tensor(self, name: str) -> "torch.Tensor":
        """A whole tensor of its file, in float32."""
        return self.layer.tensors.read(name, (slice(None),))


def module_of(laid: Laid, tensor: str, weight: str) -> str:
    """What the adapter, in PEFT's form, calls the module that a tensor changes the weight or bias of."""
    module = _spelled(laid, tensor, lambda name: _is_of(laid, name, weight))
    return module.removesuffix(".weight").removesuffix(".bias")


def fused_parameter(laid: Laid, change: "Change", factors: "Factors") -> str:
    """What the adapter, in PEFT's form, calls the fused parameter that a weight lies in."""

    def fits(module: str) -> bool:
        found = parameter_of(module, laid.adapter.config)
        return found is not None and any(_holds(part.weight, change.weight) for part in our_parts(found, laid.family))

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


def fused_parts(laid: Laid, change: "Change", factors: "Factors") -> "list[Part]":
    """The parts of a fused parameter, in order."""
    parts = our_parts(fused_parameter(laid, change, factors), laid.family)
    return sorted(parts, key=lambda part: part.index)


def fused_weights(laid: Laid, change: "Change", factors: "Factors") -> list[tuple[str, ...]]:
    """Our names of the weights in a fused parameter: of each expert its parts, in order."""
    templates = [part.weight for part in fused_parts(laid, change, factors)]
    count = factors.expert.count if factors.expert else 0
    return [tuple(name.replace("{e}", str(expert)) for name in templates) for expert in range(count)]


def _holds(template: str, weight: str) -> bool:
    """Whether a weight is one expert's of a template."""
    before, _, after = template.partition("{e}")
    return weight.startswith(before) and weight.endswith(after)
