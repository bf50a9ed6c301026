"""Generation: prompts, sampling, and text token by token."""
