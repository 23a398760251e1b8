"""Questions: base (`Question`, splits, groups), generated (the mini world), hub (real sets), load.

Used by everything that asks or grades; knows nothing of models.
"""
