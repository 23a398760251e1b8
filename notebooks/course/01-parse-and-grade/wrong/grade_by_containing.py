"""Looks for the gold somewhere in the answer, and has no arithmetic.

Feedback: 12 is not 2
"""


def grade(answer, gold, answer_type):
    if answer is None:
        return False
    if answer_type == "math":
        try:
            return gold in answer or Fraction(answer) == Fraction(gold)
        except (ValueError, ZeroDivisionError):
            return False
    return gold.lower() in answer.lower()
