"""Learning: trajectories to batches, batches to losses, losses to updates, updates to checkpoints."""
