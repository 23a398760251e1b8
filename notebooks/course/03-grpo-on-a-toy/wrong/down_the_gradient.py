"""Descends, as one does with a loss.

Feedback: the step goes up the gradient
"""


def train(chance, seed, steps=300, size=8, rate=0.5):
    rng, logits = np.random.default_rng(seed), np.zeros(len(LEVELS))
    for _ in range(steps):
        actions = rng.choice(len(LEVELS), size, p=softmax(logits))
        target = (rng.random(size) < chance).mean()
        advantage = advantages(-np.abs(LEVELS[actions] - target), size, divide=False)
        logits = logits - rate * policy_gradient(logits, actions, advantage)
    return softmax(logits)
