"""Planning: the search space, the candidates, their predicted times, and why one was chosen."""
