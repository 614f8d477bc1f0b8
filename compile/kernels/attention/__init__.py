"""softmax(scale · Q Kᵀ + mask + biases) V, in two layouts of its tiles."""

from compile.kernels.attention.spec import Attention, Bias, Window, Zeros

__all__ = ["Attention", "Bias", "Window", "Zeros"]
