"""A loaded version of a model and its signatures."""
