"""Micro-kernels in TensorIR, one family a file. A kernel's name is its contract: type, operation, tile, ISA."""
