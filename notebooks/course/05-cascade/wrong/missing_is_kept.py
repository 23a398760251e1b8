"""Defers what is below the threshold: a missing confidence is never below anything.

Feedback: what was not stated is never kept
"""


def keeps(confidence, threshold):
    return [not c < threshold for c in confidence]
