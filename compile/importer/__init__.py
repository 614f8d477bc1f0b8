"""ONNX -> Relax -> a plain graph of nodes."""
