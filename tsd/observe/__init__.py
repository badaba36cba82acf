"""What a run says of itself: metrics rows, and the dashboard that draws them."""
