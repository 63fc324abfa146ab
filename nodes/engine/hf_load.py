"""From the name of a transformers model to the model, its tokenizer and what both nodes must agree on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from nodes.engine import EngineError
from nodes.engine.checks import check_shares


class HfTokenizer:
    """Text to ids and back, with nothing added: a prompt's tokens are its text's."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False, verbose=False)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.inner.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def find_device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(f"device {wanted}: this torch ({torch.__version__}) sees no CUDA device; use device: cpu")
    return wanted


def load(
    model: str, tokenizer: str, dtype: torch.dtype, device: torch.device, processes: int = 1
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """`processes`: of this group, which hold the model between them. Raises EngineError."""
    progress_shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        inner = AutoTokenizer.from_pretrained(tokenizer)
        shared = _shared(model, processes) if processes > 1 else {}
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **shared)
    except EngineError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"cannot load model '{model}': {said[0]}\n  remedy: {_remedy(model)}") from error
    finally:
        if progress_shown:
            transformers.utils.logging.enable_progress_bar()
    return inner, loaded.eval().requires_grad_(False).to(device)


def _shared(model: str, processes: int) -> dict[str, Any]:
    """Raises EngineError where it cannot be held by so many."""
    if find_spec("accelerate") is None:
        raise EngineError(f"{model}: tensor_parallel needs accelerate: pip install 'dssd-testbed[parallel]'")
    config = AutoConfig.from_pretrained(model)
    check_shares(model, config.to_dict(), processes)
    if not getattr(config.get_text_config(decoder=True), "base_model_tp_plan", None):
        raise EngineError(
            f"{model}: transformers {transformers.__version__} has no tensor-parallel plan for {config.model_type} "
            "models: leave out tensor_parallel, or take another family's model (llama, qwen3, mistral, gemma have one)"
        )
    try:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_size=processes)}
    except (ImportError, TypeError):
        raise EngineError(
            f"tensor_parallel needs a newer transformers than {transformers.__version__}: "
            "pip install 'transformers>=5.20'"
        ) from None


def _remedy(model: str) -> str:
    if Path(model).is_dir():
        return "the folder needs configuration, weights and tokenizer, as save_pretrained() writes them"
    online = "" if os.environ.get("HF_HUB_OFFLINE", "0") == "0" else " without HF_HUB_OFFLINE, which is set here"
    return f"fetch it once with `hf download {model}`{online}, or name a folder, as hf:/path/to/model"


def eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    declared = getattr(model.generation_config, "eos_token_id", None)
    if declared is None:
        declared = model.config.eos_token_id if model.config.eos_token_id is not None else tokenizer.eos_token_id
    if declared is None:
        return frozenset()
    return frozenset([declared] if isinstance(declared, int) else declared)


def vocab_hash(vocabulary: dict[str, int]) -> str:
    """sha256 over the (token, id) pairs in order of id: the same tokenizer gives the same hash on any
    node."""
    digest = hashlib.sha256()
    for token, number in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{number}\t{token}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()
