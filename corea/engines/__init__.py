"""Completions of a language model: in this process, by vLLM, or replayed from records.

Used by evaluation, training, `mini`, `serving` and `paper`; knows nothing of tables or runs."""
