"""Names that are learnt from corrections: a classifier in closed form on what a model sees."""
