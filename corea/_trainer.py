"""What we change in TRL's trainer; apart from `grpo`, as TRL takes seconds to import."""

from bisect import bisect_left
from functools import cache
from itertools import accumulate

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from trl import GRPOTrainer

from corea.engines import _decoding
from corea.parser import parse
from corea.rewards import text_of

_ROWS = 64  # of alike length, for which log-probabilities are taken at once


class Trainer(GRPOTrainer):
    """`trl.GRPOTrainer` that may give the confidence its own advantage, and does no work twice.

    With `segments`, tokens from the `<confidence>` tag on have the advantage of the confidence
    reward; those before it, and all of a completion that is not well-formed, the advantage of
    correctness and format.  Each is centred and scaled within its group as TRL does with the sum of
    all rewards.  After DCPO (arXiv 2603.09117), which tells reasoning and confidence apart so.

    With `lean`, for one process and a model with attention to all that came before, rollouts are
    written by our own loop, each prompt is read once for its whole group, and what stands behind a
    completion's end is not computed.  Up to float rounding, the losses are TRL's.
    """

    def __init__(self, *given, segments: bool = False, lean: bool = False, **named):
        super().__init__(*given, **named)
        layers = DynamicCache(config=self.model.config).layers
        is_plain = all(type(layer) is DynamicLayer for layer in layers)
        self.segments = segments
        self.lean = lean and is_plain and self.accelerator.num_processes == 1

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._scored = rewards, completions, completion_ids_list
        return rewards

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if self.segments:
            batch["advantages"] = self._by_segment(*self._scored, *batch["completion_ids"].shape)
        return batch

    def _by_segment(self, rewards, completions, tokens, rows: int, width: int) -> torch.Tensor:
        """Advantages (rows, width) of this process, from rewards of the rows of every process."""
        texts = [text_of(completion) for completion in completions]
        starts = [self._confidence_start(*row) for row in zip(texts, tokens, strict=True)]
        position = torch.arange(width, device=rewards.device)
        is_stated = position >= torch.tensor(starts, device=rewards.device)[:, None]
        of_confidence = torch.tensor([n == "confidence_reward" for n in self.reward_func_names])
        weighted, own = rewards * self.reward_weights.to(rewards.device), rows
        parts = []
        for part in (of_confidence, ~of_confidence):
            paid = weighted[:, part].sum(dim=1)
            advantages = group_advantages(paid, self.num_generations, self.scale_rewards)
            parts.append(advantages.view(-1, own)[self.accelerator.process_index, :, None])
        return torch.where(is_stated, *parts)

    def _confidence_start(self, text: str, tokens: list[int]) -> int:
        """The first token that starts in the confidence's tag; behind all, unless well-formed."""
        pieces = [_piece(self._tokenizer, token) for token in tokens]
        before, tag, _ = "".join(pieces).rpartition("<confidence>")
        if not tag or not parse(text).well_formed:
            return len(tokens)
        return bisect_left([0, *accumulate(map(len, pieces))], len(before))

    def _generate_single_turn(self, prompt_ids, *given, **named):
        if not self.lean:
            return super()._generate_single_turn(prompt_ids, *given, **named)
        draws = torch.rand(len(prompt_ids), self.max_completion_length, dtype=torch.double)

        def choose(rows, step, logits):
            return _decoding.draw(logits, self.temperature, draws[rows, step])

        model, limit = self.accelerator.unwrap_model(self.model), self.max_completion_length
        options = {"limit": limit, "ends": self.eos_token_ids, "pad": self._tokenizer.pad_token_id}
        return _decoding.write(model, prompt_ids, choose, **options), None

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, **options
    ):
        shared = input_ids.shape[1] - logits_to_keep - 1  # the prompt, but for its last token
        if not self.lean or shared < 1:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **options
            )
        lengths, parts = attention_mask[:, -logits_to_keep:].sum(dim=1), []
        order = lengths.argsort(stable=True)
        positions = attention_mask.cumsum(dim=1).sub(1).clamp(min=0)
        with self.accelerator.autocast():
            prefix, which = _read_once(model, input_ids[:, :shared], attention_mask[:, :shared])
            for rows in order.split(_ROWS):
                end = shared + 1 + int(lengths[rows].max())
                ids, mask = input_ids[rows, shared:end], attention_mask[rows, :end]
                layers = [(part.keys[which[rows]], part.values[which[rows]]) for part in prefix]
                output = model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions[rows, shared:end],
                    past_key_values=DynamicCache(layers, config=model.config),
                    labels=ids.masked_fill(mask[:, shared:] == 0, -100),
                    fused_lm_head=True,
                )
                room = (0, logits_to_keep - (end - shared - 1))
                found = [
                    output.log_probs,
                    *[output.entropy] * options.get("compute_entropy", False),
                ]
                parts.append([pad(part, room) for part in found])
        logps, *entropies = (torch.cat(part)[order.argsort()] for part in zip(*parts, strict=True))
        return logps, entropies[0] if entropies else None, None


def _read_once(model, ids: torch.Tensor, mask: torch.Tensor) -> tuple[list, torch.Tensor]:
    """Keys and values of each different prompt, and which of them each row has."""
    both = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    (unlike, which), cached = both, DynamicCache(config=model.config)
    ids, mask = unlike.chunk(2, dim=1)
    positions = mask.cumsum(dim=1).sub(1).clamp(min=0)
    model.base_model(ids, attention_mask=mask, position_ids=positions, past_key_values=cached)
    return cached.layers, which


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
