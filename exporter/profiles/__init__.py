"""Profiles: a TOML file for each level, and the type that it gives each tensor of a model.

The choice follows llama.cpp's quantizer (``src/llama-quant.cpp``), so that a level means here what it means there. What
is data (which tensors, which layers, which type) stands in ``quant_profiles/``; what needs the whole model (the order
of the tensors, the counters that say which layer is the third, the substitute for odd rows) stands in ``choose``.
"""

from exporter.profiles.choose import choose_types
from exporter.profiles.read import bits_per_weight, load_profile, parse_profile, profile_names
from exporter.profiles.rules import Choice, Facts, Profile, Rule

__all__ = [
    "Choice",
    "Facts",
    "Profile",
    "Rule",
    "bits_per_weight",
    "choose_types",
    "load_profile",
    "parse_profile",
    "profile_names",
]
