"""The stems of the Inception networks, without Keras."""

# Stem to the shortest side, in pixels, of which a pixel is left in module 5b.
SHORTEST_SIDE = {"imagenet": 32, "small": 4}
