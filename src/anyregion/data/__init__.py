"""Annotated images as columns, and what is computed of them once: readers, checks, token store."""
