"""Where: frozen promptable segmenters. An image once, then prompts to tokens, and to masks."""
