"""The configs that `--config=NAME` finds."""
