"""From a request to its answer, whichever transport it came by."""
