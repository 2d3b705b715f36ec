"""Pixels: preprocessing, augmentation and crops."""
