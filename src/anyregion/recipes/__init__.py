"""Recipes: settings of trainings, one YAML file each, and what reads and runs them."""
