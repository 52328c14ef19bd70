"""Everything that a store keeps, as a stream of entries: from a store or a file, into another."""
