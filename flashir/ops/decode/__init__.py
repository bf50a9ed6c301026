"""How ops decode token by token: their states, and what a step does with them."""
