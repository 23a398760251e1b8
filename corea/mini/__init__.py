"""The base models of the mini world: recipes, their training, their tokenizer.

Used by `paper` and notebooks only."""
