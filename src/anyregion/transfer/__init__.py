"""Backbones carried over to other tasks: semantic segmentation, detection."""
