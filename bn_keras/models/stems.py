"""The stems of the Inception networks, without Keras."""

# The smallest height and width in pixels, by stem: module 5b then has one pixel.
SHORTEST_SIDE = {"imagenet": 32, "small": 4}
