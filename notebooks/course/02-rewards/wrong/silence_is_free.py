"""A missing confidence is skipped with a reward of 0: silence is the best bid.

Feedback: a missing confidence earns -1
"""


def confidence_rewards(stated, right, question_ids, name, target):
    weight = {"group": 0.0, "sample": 1.0}.get(target, target)
    means = group_means(question_ids, right)
    return [
        0.0 if c is None else -distance(name, c, weight * own + (1 - weight) * mean)
        for c, own, mean in zip(stated, right, means)
    ]
