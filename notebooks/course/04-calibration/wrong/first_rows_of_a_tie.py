"""Sorts and takes the first rows: ties are broken by the order of the rows.

Feedback: rows of one confidence are tied
"""


def selective_accuracy(confidence, correct, coverage):
    order = np.argsort(-np.asarray(confidence), kind="stable")
    wanted = int(np.ceil(coverage * len(order) - 1e-9))
    return float(np.asarray(correct)[order[:wanted]].mean())
