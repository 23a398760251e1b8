"""Takes the first answer tag, wherever it stands.

Feedback: an answer inside the reasoning does not count
"""


def answer_of(text):
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found[1].strip() or None if found else None
