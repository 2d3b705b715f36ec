"""From a request, whatever its transport, to the answer of the right version."""
