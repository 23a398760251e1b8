"""What we add to TRL's trainer; apart from `grpo`, as TRL takes seconds to import."""

from bisect import bisect_left
from functools import cache
from itertools import accumulate

import torch
from trl import GRPOTrainer

from corea.parser import parse
from corea.rewards import text_of


class SegmentTrainer(GRPOTrainer):
    """GRPO in which the confidence is moved by its own reward, and all before it by the others.

    Tokens from the `<confidence>` tag on have the advantage of the confidence reward; those before
    it, and all of a completion that is not well-formed, the advantage of correctness and format.
    Each is centred and scaled within its group as TRL does with the sum of all rewards.  After DCPO
    (arXiv 2603.09117), which tells reasoning and confidence apart in the same way.
    """

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rows = zip(completions, completion_ids_list, strict=True)
        starts = [self._confidence_start(text_of(text), tokens) for text, tokens in rows]
        self._scored = rewards, torch.tensor(starts, device=rewards.device)
        return rewards

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        (rewards, starts), own = self._scored, self.accelerator.process_index * len(inputs)
        is_stated = torch.tensor([n == "confidence_reward" for n in self.reward_func_names])
        weighted = rewards * self.reward_weights.to(rewards.device)  # rows of every process
        stated, others = (
            group_advantages(weighted[:, part].sum(dim=1), self.num_generations, self.scale_rewards)
            [own : own + len(inputs), None] for part in (is_stated, ~is_stated)
        )  # fmt: skip
        position = torch.arange(batch["completion_ids"].shape[1], device=starts.device)
        batch["advantages"] = torch.where(position >= starts[:, None], stated, others)
        return batch

    def _confidence_start(self, text: str, tokens: list[int]) -> int:
        """The first token that starts in the confidence's tag; behind all, unless well-formed."""
        pieces = [_piece(self._tokenizer, token) for token in tokens]
        before, tag, _ = "".join(pieces).rpartition("<confidence>")
        if not tag or not parse(text).well_formed:
            return len(tokens)
        return bisect_left([0, *accumulate(map(len, pieces))], len(before))


def group_advantages(rewards: torch.Tensor, size: int, scale: str) -> torch.Tensor:
    """Rewards (rows,) less their group's mean, divided by the deviation of "group" or "batch"."""
    groups = rewards.view(-1, size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale != "none":
        deviation = groups.std(dim=1, keepdim=True) if scale == "group" else rewards.std()
        advantages = advantages / (deviation + 1e-4)  # TRL's own epsilon
    return advantages.view(-1)


@cache
def _piece(tokenizer, token: int) -> str:
    return tokenizer.decode([token])
