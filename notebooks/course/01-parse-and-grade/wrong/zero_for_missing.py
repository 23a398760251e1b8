"""A confidence that cannot be read counts as 0, the commonest bug of all.

Feedback: nothing stated must stay None
"""


def read_confidence(body):
    number = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(%?)", body)
    if number is None:
        return 0.0
    value = float(number[1])
    if number[2] or 10 <= value <= 100:
        value = value / 100
    return value if value <= 1 else None
