"""An adapter as a view over a checkpoint: finished rows in float32, computed when they are read."""

from exporter.merge.adapter import check_together, read_layer
from exporter.merge.checks import check_copies, check_effect, check_fit, check_layers
from exporter.merge.experts import LAYOUTS, packing
from exporter.merge.layer import Layer
from exporter.merge.lora import KINDS
from exporter.merge.resized import count_rows
from exporter.merge.tied import base_is_tied, check_shared, is_tied, share_origin
from exporter.merge.values import Change, Changes, Given
from exporter.merge.view import Delta, Merged

__all__ = [
    "KINDS",
    "LAYOUTS",
    "Change",
    "Changes",
    "Delta",
    "Given",
    "Layer",
    "Merged",
    "base_is_tied",
    "check_copies",
    "check_effect",
    "check_fit",
    "check_layers",
    "check_shared",
    "check_together",
    "count_rows",
    "is_tied",
    "packing",
    "read_layer",
    "share_origin",
]
