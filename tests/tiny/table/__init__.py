"""The tiny models: one configuration for each architecture and each variant that converts differently.

Each module holds a few families' `MODELS`.
"""

from importlib import import_module
from pkgutil import iter_modules

from tiny.values import Tiny

MODELS: dict[str, Tiny] = {}
for found in sorted(iter_modules(__path__), key=lambda found: found.name):
    models: dict[str, Tiny] = import_module(f"{__name__}.{found.name}").MODELS
    assert not set(models) & set(MODELS), found.name
    MODELS |= models
