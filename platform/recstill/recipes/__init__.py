"""The use cases, readable from top to bottom."""
