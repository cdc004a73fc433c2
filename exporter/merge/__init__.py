"""An adapter as a view over a checkpoint: finished rows in float32, computed when they are read."""

from exporter.merge.changes import Changes, read_changes
from exporter.merge.checks import check_copies, check_effect, check_fit
from exporter.merge.tied import base_is_tied, is_tied, share_origin
from exporter.merge.view import Delta, Merged

__all__ = [
    "Changes",
    "Delta",
    "Merged",
    "base_is_tied",
    "check_copies",
    "check_effect",
    "check_fit",
    "is_tied",
    "read_changes",
    "share_origin",
]
