"""Fills missing confidences with 0.

Feedback: a missing confidence is left out
"""


def ece(confidence, correct, bins=10):
    confidence = np.nan_to_num(np.asarray(confidence, dtype=float))
    edges = np.arange(bins + 1) / bins
    bin_of = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
    return float(np.abs(np.bincount(bin_of, confidence - np.asarray(correct), bins)).sum() / len(confidence))
