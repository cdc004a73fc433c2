"""An adapter as a view over a checkpoint: finished rows in float32, computed when they are read."""

from exporter.merge.changes import read_changes
from exporter.merge.checks import check_copies, check_effect, check_fit, check_layers
from exporter.merge.experts import LAYOUTS, packing
from exporter.merge.tied import base_is_tied, is_tied, share_origin
from exporter.merge.values import Changes, Given
from exporter.merge.view import Delta, Merged

__all__ = [
    "LAYOUTS",
    "Changes",
    "Delta",
    "Given",
    "Merged",
    "base_is_tied",
    "check_copies",
    "check_effect",
    "check_fit",
    "check_layers",
    "is_tied",
    "packing",
    "read_changes",
    "share_origin",
]
