"""Files as a stranger could make them, by format: malformed, damaged, absurd. Tests and campaigns draw from them."""
