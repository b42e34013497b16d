"""The HTTP service: regions of images named over HTTP, by one model in memory. Needs `[serve]`."""
