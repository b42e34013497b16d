"""How the heads of `compact` are trained on stored feature maps, and exported to ONNX."""
