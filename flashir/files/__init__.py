"""Files: written whole or not at all, and read as if a stranger wrote them."""
