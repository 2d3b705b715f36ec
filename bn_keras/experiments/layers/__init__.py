"""Layers that only the experiments use."""
