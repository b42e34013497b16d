"""Annotation tools with servers of their own: what is drawn in them is named, found or outlined."""
