"""The built-in model: names, masks, points and proposals on ONNX Runtime, without torch."""
