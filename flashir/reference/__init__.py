"""The float64 reference: the interpreter, its inputs, and the comparison of results with it."""
