"""Counts strictly greater pairs alone.

Feedback: a tied pair counts half
"""


def auroc(confidence, correct):
    confidence, won = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=bool)
    stated = ~np.isnan(confidence)
    right, wrong = confidence[stated & won], confidence[stated & ~won]
    return float((right[:, None] > wrong).mean()) if len(right) and len(wrong) else float("nan")
