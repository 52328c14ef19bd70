"""Translators between HTTP and the runtime: one face for each protocol, stateless itself."""
