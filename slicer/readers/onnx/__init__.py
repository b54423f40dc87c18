"""ONNX initializers."""
