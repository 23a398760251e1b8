"""Takes the most accurate threshold, whatever it costs.

Feedback: not the highest accuracy
"""


def cheapest_threshold(curve, pass1):
    best = max(curve, key=lambda row: (row["pass1"], -row["cost"]))
    return best["threshold"] if best["pass1"] >= pass1 - 1e-12 else None
