"""Softmax by the book's formula: it overflows.

Feedback: take the largest logit off first
"""


def softmax(logits):
    raised = np.exp(np.asarray(logits, dtype=float))
    return raised / raised.sum()
