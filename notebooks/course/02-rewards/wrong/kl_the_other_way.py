"""KL of c from t instead of t from c.

Feedback: clip c, not t
"""


def distance(name, c, t):
    if name == "l1":
        return abs(c - t)
    if name == "l2":
        return (c - t) ** 2
    t = min(max(t, CLIP), 1 - CLIP)
    pairs = ((c, t), (1 - c, 1 - t))
    return sum(p * math.log(p / q) for p, q in pairs if p > 0) / math.log(1 / CLIP)
