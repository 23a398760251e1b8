"""Returns the stated confidence: COREA itself.

Feedback: the stated confidence alone is no better than COREA
"""


def score(learned, table):
    return [None if c != c else c for c in table["confidence"]]
