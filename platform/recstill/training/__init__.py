"""One training loop for teachers and students; only the loss differs."""
