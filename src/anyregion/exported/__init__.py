"""RegionSpot as ONNX graphs: what `anyregion export-onnx` wrote, run by ONNX Runtime alone."""
