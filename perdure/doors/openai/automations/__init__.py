"""Automations: sessions that begin, or are written to, by the clock."""
