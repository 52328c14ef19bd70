"""Keys and names as bytes: they come from clients and may hold what is not Unicode."""


def packed(key: str) -> bytes:
    """Return the bytes of a key; they sort as its characters do."""
    return key.encode("utf-8", "surrogatepass")


def unpacked(data: bytes) -> str:
    """Return the key of these bytes."""
    return data.decode("utf-8", "surrogatepass")
