"""Networks in ONNX files, as modules of plain PyTorch operations."""
