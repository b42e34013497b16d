"""RegionSpot: a small trained module that joins a frozen localizer and a frozen VLM."""
