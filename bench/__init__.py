"""Measurements of Perdure on this machine: `make bench`; docs/performance.md explains them.

Nothing here is imported by `perdure`; nothing here asserts a time.
"""
