"""Rows quantised as they come, times int8 weights."""

from compile.kernels.linear_int8.spec import LinearInt8
from compile.kernels.linear_int8.weights import overflows_in_pairs, weight_operands

__all__ = ["LinearInt8", "overflows_in_pairs", "weight_operands"]
