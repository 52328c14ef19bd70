"""Egress: the one way from a sandbox to other machines, and the rules of it."""
