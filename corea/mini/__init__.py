"""The base models of the mini world: recipes, their training, their tokenizer."""
