"""The mean over all samples.

Feedback: take the mean over questions
"""


def pass_at_1(question_ids, right):
    return sum(right) / len(right)
