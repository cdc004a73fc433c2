"""What is in a run directory: adapter or full model, which trainer made it, which base it stands on."""

from exporter.run.folder import config_file
from exporter.run.open import open_run
from exporter.run.values import Adapter, Asked, Run, Vision
from exporter.run.vision import with_projector, with_tower

__all__ = ["Adapter", "Asked", "Run", "Vision", "config_file", "open_run", "with_projector", "with_tower"]
