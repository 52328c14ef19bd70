"""Many nodes on one database, struck on purpose: the proof that is run by `make chaos`."""
