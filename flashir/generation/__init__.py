"""Generation: prompts, sampling, and decoding token by token."""
