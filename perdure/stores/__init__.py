"""Where journals, inboxes and large payloads are kept: in memory, or in a SQLite file."""
