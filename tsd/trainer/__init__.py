"""The trainer process: trajectories in, weights out; and `warmstart`, the supervised training of the tiny model."""
