"""Compute the convolutions and products of a folded model in int8."""

from bn_keras.quantization.quantize_model import quantize
from bn_keras.quantization.quantized_model import QuantizedModel
from bn_keras.quantization.report import LayerEntry, QuantizationReport

__all__ = ["LayerEntry", "QuantizationReport", "QuantizedModel", "quantize"]
