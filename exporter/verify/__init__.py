"""Measure GGUF files against a reference GGUF."""

from exporter.verify.measurement import Level, MeasuredOn, Measurement, Options, measure
from exporter.verify.metrics import Scores
from exporter.verify.summary import level_fields, measured_on_fields, reference_fields

__all__ = [
    "Level",
    "MeasuredOn",
    "Measurement",
    "Options",
    "Scores",
    "level_fields",
    "measure",
    "measured_on_fields",
    "reference_fields",
]
