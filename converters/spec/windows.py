"""Whether a model's layers see only a window of the tokens before."""

from typing import cast

from converters.spec.derive import whole
from converters.spec.values import Config


def windowed(config: Config) -> bool:
    """Whether some layer of a dense Qwen 2 or 3 sees only the last tokens, as transformers decides it.

    Only where ``use_sliding_window`` is true and ``sliding_window`` is a number; then in the layers that
    ``layer_types`` says, or from ``max_window_layers`` on.
    """
    if not config.get("use_sliding_window") or not config.get("sliding_window", 4096):
        return False
    if config.get("layer_types") is not None:
        return "sliding_attention" in cast("list[str]", config["layer_types"])
    return whole(config, "max_window_layers") < whole(config, "num_hidden_layers")
