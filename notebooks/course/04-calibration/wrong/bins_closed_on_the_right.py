"""Bins closed on the right: right for most numbers, wrong on the edges.

Feedback: bins are closed on the left
"""


def ece(confidence, correct, bins=10):
    confidence = np.asarray(confidence, dtype=float)
    stated = ~np.isnan(confidence)
    confidence, correct = confidence[stated], np.asarray(correct)[stated]
    edges = np.arange(bins + 1) / bins
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    return float(np.abs(np.bincount(bin_of, confidence - correct, bins)).sum() / len(confidence))
