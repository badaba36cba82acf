"""What several tests make or check."""
