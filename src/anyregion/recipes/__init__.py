"""Settings of published trainings, one YAML file each: `anyregion train --print-recipe NAME`."""
