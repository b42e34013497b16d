"""Localizers, frozen promptable segmenters: an image once, then prompts to tokens and masks."""
