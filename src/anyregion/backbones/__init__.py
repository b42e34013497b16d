"""Image networks without their classifiers: built, read at two depths, loaded, saved, exported."""
