"""Recognisers that need no training: the crop, the masked crop, dense features pooled."""
