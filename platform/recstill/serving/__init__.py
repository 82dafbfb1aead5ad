"""Score requests. A worker needs onnxruntime and numpy; no torch, no feast, no plugin."""
