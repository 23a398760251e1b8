"""High where the LLM should be asked.

Feedback: is a high score what should stand?
"""


def score(learned, table):
    return (-table["mean_probability"]).tolist()
