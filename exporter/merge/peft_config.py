"""The configuration of an adapter that PEFT merges: as PEFT's own object, and against the base's modules."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from exporter.errors import MergeError
from exporter.merge.fields import other_base, shown
from exporter.merge.lora import check_layer, matched
from exporter.merge.methods import RENAMED
from exporter.merge.skeleton import quietly

if TYPE_CHECKING:
    from exporter.merge.peft_layers import Module, Stored

OURS = (
    "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "trainable_token_indices",
)  # fmt: skip
"""Fields that say which modules to train, or concern other modules: settled by the file's tensors, or the caller's."""
WHOLE_MODEL = ("layer_replication", "target_parameters")
"""Fields (of AdaLoRA, which has LoRA's) that mean more than one module."""
COUNTED = {"UNILORA": {"r": "unilora_indices_A", "theta_d_length": "unilora_theta_d"}}
"""Of a method whose layer cannot be made without memory: a field, and the tensors that have so many rows."""


def today(method: str) -> str:
    """What the installed PEFT calls a method."""
    return RENAMED.get(method, method)


def check_targeted(adapter: "Stored", module: str, base: "Module | None") -> None:
    """MergeError for a trained module that the base does not have, or that the configuration does not name.

    PEFT makes nothing of the tensors of such a module.
    """
    config, path = adapter.config, adapter.path
    if base is None:
        raise MergeError(f"{path}: the adapter changes {module}, the base model does not have it. {other_base(config)}")
    check_layer(config, module, path)
    targets = config.get("target_modules")
    tied = config["peft_type"] == "TRAINABLE_TOKENS"  # PEFT saves what it trained for a tied head too
    if not tied and isinstance(targets, list) and not any(f".{module}".endswith(f".{target}") for target in targets):
        raise MergeError(
            f"{path}: has tensors of {module}, but target_modules of adapter_config.json is "
            f"{', '.join(map(str, targets))}. The two files are of different runs."
        )
    if config["peft_type"] == "BEFT" and not base.bias:
        raise MergeError(
            f"{path}: BEFT trained a bias of {module}, which has none in the base, and PEFT cannot merge it there. "
            "Train with another method."
        )
    for name in config:
        if name.endswith("_pattern") and name not in OURS:
            matched(config, name, module, None)  # refuses patterns that may take for ever
    feedforward = config.get("feedforward_modules")
    if isinstance(feedforward, str):
        matched({"feedforward_modules": {feedforward: True}}, "feedforward_modules", module, None)


def check_counted(adapter: "Stored", config: Any) -> None:  # noqa: ANN401  (PEFT has no types)
    """MergeError where PEFT would allocate by a number that is not the tensors' own, before it looks at them."""
    method, path = str(adapter.config["peft_type"]), adapter.path
    for field, ending in COUNTED.get(method, {}).items():
        for name, shape in adapter.shapes.items():
            if name.endswith(ending) and shape[:1] != (getattr(config, field),):
                raise MergeError(
                    f"{path}: {name} is {list(shape)}, but {field} of adapter_config.json is {getattr(config, field)}, "
                    "expected as many as it has rows. The two files are of different runs: copy both from one."
                )
    if method == "VBLORA" and config.topk > config.num_vectors:
        raise MergeError(
            f"{path}: topk is {config.topk} in adapter_config.json, expected num_vectors ({config.num_vectors}) at "
            "most. Copy the file from the run again."
        )
    masks = config.rank_pattern if method == "ADALORA" else None
    for name, mask in (masks or {}).items():
        if not isinstance(mask, list) or len(mask) != config.init_r:
            raise MergeError(
                f"{path}: rank_pattern of adapter_config.json is {shown(mask)} for {name}, and init_r {config.init_r}: "
                "expected a list of so many, true for each rank that is left. Save the adapter again."
            )


def configure(adapter: "Stored") -> Any:  # noqa: ANN401
    """PEFT's configuration of an adapter; MergeError for a field that the installed PEFT does not know."""
    from peft import __version__  # noqa: PLC0415
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[today(str(adapter.config["peft_type"]))]
    known = {field.name for field in fields(kind)} - {"peft_type"}
    for name, value in adapter.config.items():
        if value and name in WHOLE_MODEL:
            raise MergeError(
                f"{adapter.path}: {name} is {shown(value)}; such an adapter is not merged here. Merge it with PEFT."
            )
        if value and name not in {*known, "peft_type"}:
            raise MergeError(
                f"{adapter.path}: {name} is {shown(value)} in adapter_config.json, a field that PEFT {__version__} "
                f"does not have for {adapter.config['peft_type']}. Install the PEFT that wrote it, or merge it with "
                "that one."
            )
    with quietly("adapter_config.json", adapter.path):
        config = kind(**{name: value for name, value in adapter.config.items() if name in known})
    for name in known.intersection(OURS):
        setattr(config, name, None)
    if "bias" in known:
        config.bias = "none"
    return config
