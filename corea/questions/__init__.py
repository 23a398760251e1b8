"""What a question is, and where questions come from: families, real sets, your own file.

Used by everything that asks, trains or grades; knows nothing of models."""
