"""Leaves the row itself out of its group's mean.

Feedback: a row's own result is in the mean
"""


def group_means(question_ids, right):
    rows = list(zip(question_ids, right))
    means = []
    for i, question in enumerate(question_ids):
        others = [won for j, (q, won) in enumerate(rows) if q == question and j != i]
        means.append(sum(others) / len(others))
    return means
