"""Questions and where they come from: base (Question, splits, groups), generated (the mini world), hub (real sets).

Used by everything that asks or grades; knows nothing of models.
"""
