"""Errors, limits, metrics and tensor conversion, shared by the whole server."""
