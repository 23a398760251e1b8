"""What a question is, and where questions come from: families, real sets, your own file."""
