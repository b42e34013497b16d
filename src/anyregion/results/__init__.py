"""The folder that a run over many images writes, and what is assembled from it."""
