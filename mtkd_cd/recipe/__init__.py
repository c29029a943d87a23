"""The recipe: its strategies, their order and variants."""
