"""Edges from linspace, which lie a rounding error above .3, .6 and .7.

Feedback: edges are i / 10
"""


def ece(confidence, correct, bins=10):
    confidence = np.asarray(confidence, dtype=float)
    stated = ~np.isnan(confidence)
    confidence, correct = confidence[stated], np.asarray(correct)[stated]
    bin_of = np.minimum(np.digitize(confidence, np.linspace(0, 1, bins + 1)) - 1, bins - 1)
    return float(np.abs(np.bincount(bin_of, confidence - correct, bins)).sum() / len(confidence))
