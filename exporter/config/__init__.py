"""config.json in one spelling, with what its family fills in."""

from exporter.config.complete import COUNTS, complete
from exporter.config.numbers import LARGEST, LARGEST_FLOAT
from exporter.config.params import NAME as PARAMS
from exporter.config.read import FLOATS, NULLABLE, read_config, read_json

__all__ = ["COUNTS", "FLOATS", "LARGEST", "LARGEST_FLOAT", "NULLABLE", "PARAMS", "complete", "read_config", "read_json"]
