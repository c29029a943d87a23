"""The stages of the recipe, one training run, one test, and what the command-line tools share."""
