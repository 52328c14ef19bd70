"""Perdure beside other systems on this machine and disk: `make bench-peers`; docs/performance.md.

What the other systems need is installed into an environment of its own, never beside Perdure's.
"""
