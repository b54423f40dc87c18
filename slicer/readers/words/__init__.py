"""Tables of words and vectors."""
