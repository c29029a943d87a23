"""The front door for the shell: one module per command."""
