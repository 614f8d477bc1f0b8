"""Graph passes: an exported ONNX graph becomes the cheapest equivalent standard-ONNX graph."""
