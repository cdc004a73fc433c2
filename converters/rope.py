"""Tables of rotation factors that GGUF stores as a tensor."""

from math import log, pi, sqrt
from typing import cast

import numpy as np
from numpy.typing import NDArray

from converters.spec import Config
from converters.spec.derive import Derive, head_size


def llama3_factors(config: Config) -> NDArray[np.float32] | None:
    """Llama 3.1's division of each rotation frequency, (rope_dim / 2,); None for models without it.

    Wavelengths below ``original / high`` stay, those above ``original / low`` are stretched by ``factor``, the ones
    between are interpolated (``_compute_llama3_parameters`` of transformers, whose reciprocal llama.cpp stores).
    """
    if config["rope_type"] != "llama3":
        return None
    import torch  # noqa: PLC0415  (heavy: only where a model needs it)

    factor, low, high, original, base = (
        cast("float", config[name])
        for name in (
            "rope_factor",
            "rope_low_freq_factor",
            "rope_high_freq_factor",
            "rope_trained_context",
            "rope_theta",
        )
    )
    dim = cast("int", config["rope_dim"])
    # In torch and in float32, operation by operation as transformers does it: the factors then agree to the last bit.
    wavelength = 2 * pi / (1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)))
    smooth = (original / wavelength - low) / (high - low)
    factors = 1 / ((1 - smooth) / factor + smooth)
    factors[wavelength < original / high] = 1.0
    factors[wavelength > original / low] = factor
    return cast("NDArray[np.float32]", factors.numpy())


def long_factors(config: Config) -> NDArray[np.float32] | None:
    """LongRoPE's division of each rotation frequency beyond the trained context, (rope_dim / 2,); None without it."""
    return _longrope(config, "rope_long_factors")


def short_factors(config: Config) -> NDArray[np.float32] | None:
    """LongRoPE's division of each rotation frequency within the trained context, (rope_dim / 2,); None without it."""
    return _longrope(config, "rope_short_factors")


def _longrope(config: Config, name: str) -> NDArray[np.float32] | None:
    return np.array(config[name], np.float32) if config["rope_type"] == "longrope" else None


def longrope_attention(config: Config) -> float | None:
    """What queries and keys are multiplied by with LongRoPE; None for models without it.

    As transformers has it (``_compute_longrope_parameters``): ``attention_factor`` where it is given, else the root of
    1 + ln(factor) / ln(trained context), where ``factor`` is the context over the trained one if it is not given.
    ValueError where there is not a factor for each pair of rotated numbers.
    """
    if config["rope_type"] != "longrope":
        return None
    pairs = cast("int", config["rope_dim"]) // 2
    for name in ("rope_long_factors", "rope_short_factors"):
        if len(cast("tuple[float, ...]", config[name])) != pairs:
            raise ValueError(f"{name} are {len(cast('tuple[float, ...]', config[name]))}, expected {pairs}")
    if config.get("rope_attention_factor") is not None:
        return cast("float", config["rope_attention_factor"])
    trained = cast("int", config["rope_original_context"])
    factor = cast("float | None", config.get("rope_scaling_factor"))
    factor = factor or cast("int", config["max_position_embeddings"]) / trained
    return sqrt(1 + log(factor) / log(trained)) if factor > 1 else 1.0


def mla_yarn_multiplier(config: Config) -> float | None:
    """DeepSeek's ``rope.scaling.yarn_log_multiplier``: a tenth of ``mscale_all_dim``; None for models without YaRN.

    Raises:
        ValueError: YaRN without ``mscale_all_dim``: llama.cpp's graph then scales the scores twice.
    """
    said = config.get("rope_mscale_all_dim")
    if config["rope_type"] == "yarn" and not said:
        raise ValueError("YaRN without mscale_all_dim, which llama.cpp computes otherwise")
    return 0.1 * cast("float", said) if said else None


def image_axes(*usual: int) -> Derive:
    """How many pairs of a head turn with time, height and width, and with nothing: four numbers.

    ``usual`` where the config does not say. ValueError where they are not all pairs of a head: llama.cpp then takes
    other pairs for other axes than transformers does.
    """

    def derive(config: Config) -> tuple[int, ...]:
        axes = cast("tuple[int, ...]", config.get("rope_sections") or usual)
        pairs = cast("int", config.get("rope_dim") or head_size(config)) // 2
        if len(axes) not in {3, 4} or sum(axes) != pairs:
            raise ValueError(f"mrope_section is {list(axes)}, expected three numbers that make {pairs}")
        return (*axes, 0)[:4]

    return derive


def pairs_at_rest(config: Config) -> str | None:
    """The pairs of a head that llama.cpp does not turn, and by how much they should at the end; None if it turns all.

    Where axes take turns, transformers leaves to time what height and width leave over (``recomposition_frequencies``);
    llama.cpp has every third pair of an axis turn with it, as many as it has, and no other.
    """
    axes = cast("tuple[int, ...]", config["rope_axes"])
    rest = [pair for pair in range(sum(axes)) if pair // 3 >= axes[pair % 3]]
    if not rest:
        return None
    frequency = cast("float", config["rope_theta"]) ** (-rest[0] / sum(axes))
    turn = frequency * cast("int", config["max_position_embeddings"])
    return f"{len(rest)} of the {sum(axes)} pairs of each head, which turn by up to {turn:.2g}"


def proportional_factors(config: Config) -> NDArray[np.float32]:
    """Division of the frequencies of layers without a window, (full_head_dim / 2,): a part turns, the rest does not.

    As transformers has it (``_compute_proportional_rope_parameters``), whose frequencies of 0 are made by dividing by
    1e30 here, the number of llama.cpp's converter.
    """
    head = cast("int", config["full_head_dim"])
    turning = int(cast("float", config.get("partial_rotary_factor", 1.0)) * head // 2)
    return np.array([1.0] * turning + [1e30] * (head // 2 - turning), np.float32)


def untruncated(config: Config) -> bool | None:
    """True where YaRN's bounds are not rounded to whole dimensions, else None."""
    return True if config.get("rope_truncate") is False else None
