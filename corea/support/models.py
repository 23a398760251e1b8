"""What is known of a model before it is loaded: its sizes, and the pinned revisions of the hub."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a decoder with grouped-query attention and a gated feed-forward layer."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    tied: bool = False  # input and output embeddings are one matrix
    biased: bool = True  # queries, keys and values have biases, as in Qwen2 but not in Llama

    @property
    def kv_size(self) -> int:
        """Width of a layer's keys, and of its values, over all heads."""
        return self.kv_heads * (self.hidden_size // self.heads)

    @property
    def parameters(self) -> int:
        """Number of parameters, exactly."""
        h, kv = self.hidden_size, self.kv_size
        attention = 2 * h * h + 2 * h * kv + (h + 2 * kv if self.biased else 0)
        layer = attention + 3 * h * self.intermediate_size + 2 * h
        return self.layers * layer + h + self.vocab_size * h * (1 if self.tied else 2)

    def lora_parameters(self, rank: int) -> int:
        """Parameters of an adapter on every linear layer but the output (arXiv 2106.09685)."""
        h, kv, wide = self.hidden_size, self.kv_size, self.intermediate_size
        return self.layers * rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + wide))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token holds in the cache, at 16 bits a number."""
        return 2 * 2 * self.layers * self.kv_size


# Revisions as many public repositories pin them; the hub could not be asked when this was written.
# Qwen's licences are Apache 2.0; Llama is gated, under the Llama 3.1 Community License.
REVISIONS = {
    "Qwen/Qwen2.5-1.5B-Instruct": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
    "Qwen/Qwen2.5-7B-Instruct": "a09a35458c702b33eeacc393d103063234e8bc28",
    "Qwen/Qwen2.5-32B-Instruct": "5ede1c97bbab6ce5cda5812749b4c0bdf79b18dd",
    "meta-llama/Llama-3.1-8B-Instruct": "0e9e39f249a16976918f6564b8830bc894c89659",
}
ARCHITECTURES = {
    "Qwen/Qwen2.5-1.5B-Instruct": Architecture(28, 1536, 12, 2, 8960, 151936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": Architecture(28, 3584, 28, 4, 18944, 152064),
    "Qwen/Qwen2.5-32B-Instruct": Architecture(64, 5120, 40, 8, 27648, 152064),
    "meta-llama/Llama-3.1-8B-Instruct": Architecture(32, 4096, 32, 8, 14336, 128256, biased=False),
}


def architecture_of(model: str | Path) -> Architecture:
    """The architecture of a local folder or of a model of `ARCHITECTURES`; loads no weights."""
    name, path = str(model), Path(model) / "config.json"
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if not path.is_file():
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"the sizes of {name!r} are not known: no {path}, not one of {known}")
    config = json.loads(path.read_text())
    heads = config["num_attention_heads"]
    return Architecture(
        layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False),
        biased=config.get("model_type") == "qwen2",
    )
