"""Many images in one run: read ahead, name, draw, write, and continue where a run stopped."""
