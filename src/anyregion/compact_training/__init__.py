"""The trained parts of `compact` in torch: modules, losses, export to ONNX. Needs torch."""
