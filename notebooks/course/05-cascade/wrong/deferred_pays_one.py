"""A deferred question pays the LLM alone.

Feedback: both models are paid
"""


def cascade(confidence, slm_correct, llm_correct, slm_cost, llm_cost, threshold):
    kept = np.array(keeps(confidence, threshold))
    return {
        "pass1": float(np.where(kept, slm_correct, llm_correct).mean()),
        "cost": float(np.where(kept, slm_cost, llm_cost).mean()),
        "llm_share": float(1 - kept.mean()),
    }
