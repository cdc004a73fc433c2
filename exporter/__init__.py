"""ggufx: from a fine-tuning run to quantized GGUF files, each level measured.

The public names are imported when they are asked for, so that ``ggufx --help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.pipeline import Options, export, prepare, verify_files
    from exporter.plan import Plan, build
    from exporter.profiles import Profile, load_profile, profile_names
    from exporter.run import Run, open_run
    from exporter.source import open_source

_PLACES = {
    "Options": "exporter.pipeline",
    "Plan": "exporter.plan",
    "Profile": "exporter.profiles",
    "Run": "exporter.run",
    "build": "exporter.plan",
    "export": "exporter.pipeline",
    "load_profile": "exporter.profiles",
    "open_run": "exporter.run",
    "open_source": "exporter.source",
    "prepare": "exporter.pipeline",
    "profile_names": "exporter.profiles",
    "verify_files": "exporter.pipeline",
}

__all__ = [
    "Options",
    "Plan",
    "Profile",
    "Run",
    "build",
    "export",
    "load_profile",
    "open_run",
    "open_source",
    "prepare",
    "profile_names",
    "verify_files",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module's names are of any type)
    if name not in _PLACES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
