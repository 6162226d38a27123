"""The models that ship, as data files: NAME.onnx and its card NAME.md."""
