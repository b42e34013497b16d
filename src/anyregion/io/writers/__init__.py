"""Writers of label formats: one module a format, and the table of them."""
