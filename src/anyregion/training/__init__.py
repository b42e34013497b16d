"""What every training shares: run folder, loop, schedules, checkpoints, logs. Needs torch."""
