"""The token loop of models run in this process; imported when one runs, as transformers is heavy.

It writes what `generate` of transformers would, without what is done twice there: prompts that are
the same are read once, keys and values go into room made beforehand (the library's own cache is
copied whole for every token), and rows that have ended leave the batch.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens for which a layer makes room at a time
_LEAVE = 8  # ended rows leave once they are an eighth of the batch


class Room(DynamicLayer):
    """Keys and values of a layer, views of buffers (rows, heads, room, head size)."""

    def update(self, key_states, value_states, *args, **kwargs):
        used, new = self.get_seq_length(), key_states.shape[-2]
        for name, states in (("keys", key_states), ("values", value_states)):
            whole = getattr(self, f"_{name}", None)
            if whole is None or used + new > whole.shape[-2]:
                shape = (*states.shape[:2], used + new + _ROOM, states.shape[-1])
                larger = states.new_empty(shape)
                if used:
                    larger[:, :, :used] = getattr(self, name)
                whole = larger
                setattr(self, f"_{name}", whole)
            whole[:, :, used : used + new] = states
            setattr(self, name, whole[:, :, : used + new])
        self.is_initialized = True
        return self.keys, self.values

    def reorder_cache(self, beam_idx):
        """Take these rows, as many and as often as named."""
        for name in ("keys", "values"):
            whole = getattr(self, f"_{name}").index_select(0, beam_idx)
            setattr(self, f"_{name}", whole)
            setattr(self, name, whole[:, :, : getattr(self, name).shape[-2]])


def unlike(prompts: Sequence[Sequence[int]], pad: int, device) -> tuple[torch.Tensor, ...]:
    """Each prompt once, padded on the left: ids and mask; and which of them each row is."""
    places = {prompt: n for n, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    width = max(map(len, places))
    ids = torch.tensor([(pad,) * (width - len(prompt)) + prompt for prompt in places])
    mask = torch.tensor([(0,) * (width - len(prompt)) + (1,) * len(prompt) for prompt in places])
    which = torch.tensor([places[tuple(prompt)] for prompt in prompts])
    return ids.to(device), mask.to(device), which.to(device)


@torch.no_grad()
def write(
    model,
    prompts: Sequence[Sequence[int]],
    choose: Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor],
    *,
    limit: int,
    ends: Collection[int],
    pad: int,
) -> list[list[int]]:
    """Complete prompts token by token.

    Args:
        model: causal language model of transformers.
        prompts: token ids of each row.
        choose: from rows (n,), the step and their logits (n, vocabulary) to tokens (n,).
        limit: most tokens of a completion.
        ends: tokens that end one.

    Returns:
        Each row's tokens, its end among them.
    """
    ids, mask, rows = unlike(prompts, pad, model.device)
    cache, last = DynamicCache(config=model.config), torch.tensor([*ends], device=model.device)
    cache.layers = [Room() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    positions = mask.cumsum(dim=1).sub(1).clamp(min=0)
    options = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    logits = model(ids, attention_mask=mask, position_ids=positions, **options).logits[:, -1]
    cache.reorder_cache(rows)
    logits, position = logits[rows], positions[rows, -1:]
    mask = torch.nn.functional.pad(mask[rows], (0, limit), value=1)
    width, here = ids.shape[1], torch.arange(len(rows), device=model.device)
    tokens = torch.full((len(rows), limit), pad, device=model.device)
    open_rows = torch.ones(len(rows), dtype=torch.bool, device=model.device)
    for step in range(limit):
        chosen = choose(here, step, logits)
        tokens[here, step] = chosen.where(open_rows[here], tokens.new_tensor(pad))
        open_rows[here] &= ~torch.isin(chosen, last)
        left = open_rows[here]
        if step == limit - 1 or not left.any():
            break
        if (len(here) - left.sum()) * _LEAVE >= len(here):
            stay = left.nonzero()[:, 0]
            cache.reorder_cache(stay)
            here, chosen, position, mask = here[stay], chosen[stay], position[stay], mask[stay]
        position = position + 1
        seen = mask[:, : width + step + 1]
        logits = model(chosen[:, None], attention_mask=seen, position_ids=position, **options)
        logits = logits.logits[:, -1]
    return [_until(row, ends) for row in tokens.tolist()]


def draw(logits: torch.Tensor, temperature: float, uniform: torch.Tensor) -> torch.Tensor:
    """Tokens (n,) at numbers (n,) in [0, 1) of the cumulative distributions of logits (n, k)."""
    cumulative = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    target = uniform.to(logits.device)[:, None] * cumulative[:, -1:]
    last = logits.shape[-1] - 1
    return torch.searchsorted(cumulative, target, right=True).clamp(max=last)[:, 0]


def _until(row: list[int], ends: Collection[int]) -> list[int]:
    stop = next((n for n, token in enumerate(row, start=1) if token in ends), len(row))
    return row[:stop]
