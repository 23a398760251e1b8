"""Normalises over the whole batch instead of over each group, and by the standard deviation over n.

Feedback: each group has its own mean
"""


def advantages(rewards, size, divide=True):
    rewards = np.asarray(rewards, dtype=float)
    found = rewards - rewards.mean()
    return found / (rewards.std() + 1e-4) if divide else found
