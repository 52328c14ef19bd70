"""Vendor dialects in both directions: pure conversion, no I/O, no vendor's package."""
