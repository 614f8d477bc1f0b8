"""ONNX to a self-contained library for a phone: TVM compiles, nothing of it travels."""
