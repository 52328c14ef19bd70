"""Adapters to model providers, one file each. They know ports, core and wire, never each other."""
