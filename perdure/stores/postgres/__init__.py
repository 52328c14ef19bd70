"""Journals in PostgreSQL, shared by any number of nodes. `open_store` opens it by its address."""
