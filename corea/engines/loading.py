"""Models from a folder or the hub, and the engine that runs them on this machine."""

import json
from pathlib import Path

from corea import prompts
from corea.engines.base import ModelEngine, ModelFilesError
from corea.engines.local import TransformersEngine
from corea.engines.vllm import VLLMEngine
from corea.support.files import sha256_of
from corea.support.hardware import Compute
from corea.support.models import REVISIONS

_REMEDY = "restore the folder or retrain it (`make base`)"


def load_model(folder: str | Path, *, dtype: str = "float32"):
    """Load a causal language model from a folder or the hub: safetensors only, no remote code.

    Raises:
        ModelFilesError: if the weights are missing, damaged, or not those that a `manifest.json`
            beside them names by SHA-256, as the shipped base models have one.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    _check_manifest(Path(folder))
    disable_progress_bar()  # of loading weights, which clutters notebooks
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            revision=REVISIONS.get(str(folder), "main"),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # safetensors raises its own type, transformers OSError, ValueError
        reason = f"{str(error).strip().splitlines()[0]}; {_REMEDY}"
        raise ModelFilesError(f"cannot load model weights from {folder}: {reason}") from error


def model_engine(
    folder: str | Path, compute: Compute, *, batch_size: int, **options
) -> ModelEngine:
    """Make an engine in this process for the model in a folder or on the hub.

    `options` are fields of `ModelEngine`; vLLM batches by itself, whatever the `batch_size`.
    """
    if compute.engine == "vllm":
        _check_manifest(Path(folder))
        llm = {"dtype": compute.dtype, "tensor_parallel_size": compute.gpus_for(folder)}
        return VLLMEngine(folder, llm=llm, **options)
    model = load_model(folder, dtype=compute.dtype).to("cpu" if compute.use_cpu else "cuda")
    tokenizer = prompts.load_tokenizer(folder)
    return TransformersEngine(model, tokenizer, batch_size=batch_size, **options)


def _check_manifest(folder: Path) -> None:
    """Compare the weights with their manifest: a flipped bit loads without complaint."""
    manifest, weights = folder / "manifest.json", folder / "model.safetensors"
    if manifest.exists() and weights.exists():
        expected, actual = json.loads(manifest.read_text())["sha256"], sha256_of(weights)
        if actual != expected:
            hashes = f"(SHA-256 {actual[:12]}, not {expected[:12]})"
            problem = f"{weights} is not the file its manifest names {hashes}"
            raise ModelFilesError(f"{problem}; {_REMEDY}")
