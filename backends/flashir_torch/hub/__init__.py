"""Code that goes into a folder for the Hugging Face hub; nothing here imports it."""
