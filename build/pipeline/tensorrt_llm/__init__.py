"""Checkpoints and engines of TensorRT-LLM, of the last release with an engine path (1.2.1)."""
