"""A server's sessions as if they were here: the same methods, over HTTP."""
