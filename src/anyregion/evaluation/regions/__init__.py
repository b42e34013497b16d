"""Evaluation of named regions: classification, detection, calibration, masks."""
