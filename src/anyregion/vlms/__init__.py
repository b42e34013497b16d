"""What: frozen vision-language models. An image to a feature map, names to embeddings."""
