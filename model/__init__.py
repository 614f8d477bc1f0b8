"""The compact PyTorch core: MobileBERT-family encoders, their heads, checkpoints and ONNX export."""
