"""The float64 reference: the interpreter, its inputs, and how results are compared with it."""
