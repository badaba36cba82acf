"""What crosses between processes: trajectories over PUSH/PULL, weights over PUB with snapshots on demand."""
