"""Functions of tensors: norms, softmax, positions, biases."""
