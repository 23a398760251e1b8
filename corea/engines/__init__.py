"""Completions of a language model: in this process, by vLLM, or replayed from records."""
