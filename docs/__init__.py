"""Scripts that write and build the documentation; its pages are beside them."""
