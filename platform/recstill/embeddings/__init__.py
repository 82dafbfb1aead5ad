"""Embedding tables: fused TorchRec tables in training, one concatenated table in export, same weights."""
