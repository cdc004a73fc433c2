"""An adapter as a view over a checkpoint: finished rows in float32, computed when they are read."""

from exporter.merge.changes import Changes, check_fit, read_changes
from exporter.merge.tied import is_tied
from exporter.merge.view import Delta, Merged

__all__ = ["Changes", "Delta", "Merged", "check_fit", "is_tied", "read_changes"]
