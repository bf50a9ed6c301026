"""The IR as text: its grammar, its parser and its printer."""
