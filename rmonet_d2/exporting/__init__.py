"""Models as files that run without this project: ONNX and TorchScript."""
