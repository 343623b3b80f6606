"""onnxprune: a pruner for exported ONNX graphs."""
