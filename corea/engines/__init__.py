"""Completions of a language model, in this process or from records.

Used by evaluate, training of base models, serving and paper; knows nothing of tables or runs.
"""
