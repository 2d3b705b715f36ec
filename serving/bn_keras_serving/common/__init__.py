"""Errors, limits, metrics, messages and tensors, shared by the packages above."""
