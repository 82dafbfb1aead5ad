"""Models out of training: ONNX graph, bundle, manifest. No pickle anywhere."""
