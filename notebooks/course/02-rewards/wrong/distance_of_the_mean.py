"""Takes the distance to the expected target where the expected distance was asked for.

Feedback: L1 to 0 or 1 pays best at the ends
"""


def best_confidence(name, p, target):
    return min((i / 100 for i in range(101)), key=lambda c: distance(name, c, p))
