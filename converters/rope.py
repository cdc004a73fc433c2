"""Tables of rotation factors that GGUF stores as a tensor."""

from math import pi
from typing import cast

import numpy as np
from numpy.typing import NDArray

from converters.spec import Config


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
