"""ggufx: from a fine-tuning run to quantized GGUF files, each level measured.

The public names are imported when they are asked for, so that ``ggufx --help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.inspect import inspect_run
    from exporter.pipeline import Options, export, verify_files
    from exporter.plan import Plan
    from exporter.plan import build as build_plan
    from exporter.profiles import Profile, load_profile, profile_names
    from exporter.run import Run, open_run
    from exporter.source import open_source
    from exporter.verify import Measurement, measure

__all__ = [
    "Measurement",
    "Options",
    "Plan",
    "Profile",
    "Run",
    "build_plan",
    "export",
    "inspect_run",
    "load_profile",
    "measure",
    "open_run",
    "open_source",
    "profile_names",
    "verify_files",
]

_PLACES = {
    "exporter.inspect": ("inspect_run",),
    "exporter.pipeline": ("Options", "export", "verify_files"),
    "exporter.plan": ("Plan", "build"),
    "exporter.profiles": ("Profile", "load_profile", "profile_names"),
    "exporter.run": ("Run", "open_run"),
    "exporter.source": ("open_source",),
    "exporter.verify": ("Measurement", "measure"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module's names are of any type)
    wanted = "build" if name == "build_plan" else name
    for module, names in _PLACES.items():
        if name in __all__ and wanted in names:
            return getattr(import_module(module), wanted)
    raise AttributeError(f"module 'exporter' has no attribute {name!r}")
