"""Base models of the mini world: how the small stand-ins for real models are made.

Used by paper and notebooks only.
"""
