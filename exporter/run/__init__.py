"""What is in a run directory: adapter or full model, which trainer made it, which base it stands on."""

from exporter.run.open import open_run
from exporter.run.values import Adapter, Asked, Run

__all__ = ["Adapter", "Asked", "Run", "open_run"]
