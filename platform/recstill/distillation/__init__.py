"""What a student learns from: stored signals, and the strategies that read them."""
