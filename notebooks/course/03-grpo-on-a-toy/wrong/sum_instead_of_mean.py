"""The sum over rollouts, so that a larger group takes larger steps.

Feedback: the mean over rollouts
"""


def policy_gradient(logits, actions, advantage):
    chances = softmax(logits)
    gradient = np.zeros_like(chances)
    for action, worth in zip(actions, advantage):
        gradient -= worth * chances
        gradient[action] += worth
    return gradient
