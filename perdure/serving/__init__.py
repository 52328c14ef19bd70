"""The server: all doors, all projects, one process."""
