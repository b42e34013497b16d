"""Training RegionSpot's adapter: its settings, its data, its task for the trainer's loop."""
