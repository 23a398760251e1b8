"""What a question is, and where questions come from: generated families, real sets, a file of your own.

Used by everything that asks, trains or grades; knows nothing of models.
"""
