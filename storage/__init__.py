"""The ground floor: bytes, rows, and the words for them."""
