"""Our own protocol below /api: all that the command line can do, described by OpenAPI."""
