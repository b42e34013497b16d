"""Frozen vision-language models: an image to a feature map, names to embeddings."""
