"""All that this project wants to know of a GPU, measured in ten minutes by one command."""
