"""The generator process: problems in, trajectories out; and what it says of itself."""
