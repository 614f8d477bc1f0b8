"""Libraries run here: loaded from Python, compared with ONNX Runtime, profiled."""
