"""Weights that a checkpoint stores quantized, read as float32: which stored tensors make up which weight, and how.

Nothing is quantized again, and nothing is kept: rows are dequantized when they are read.
"""

from exporter.source.quantized.table import dequantized
from exporter.source.quantized.view import Dequantized

__all__ = ["Dequantized", "dequantized"]
