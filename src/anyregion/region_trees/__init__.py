"""Regions without labels: superpixels joined by their features into a tree, or into clusters."""
