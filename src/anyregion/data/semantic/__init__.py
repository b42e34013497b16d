"""Images with a class for every pixel, from the layouts in which such data sets are published."""
