"""The keys of a `[[models]]` table that belong to vLLM. Those that vLLM has too bear its names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nebula_core import EngineArgs
from nebula_engine_vllm.taken import free_flag, free_variable

Text = Annotated[str, Field(min_length=1)]
Word = Annotated[str, AfterValidator(free_flag)]
Variable = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(free_variable)]


class VllmArgs(EngineArgs):
    """How vLLM runs a model. What is `None` is left to vLLM."""

    max_model_len: int | None = Field(None, ge=1)
    """Tokens that one request may take, prompt and answer together; `None`: as many as the model was made for."""
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of each GPU's memory that it takes, weights and KV cache together."""
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None = None
    """Type of the weights and of what is computed with them."""
    seed: int | None = Field(None, ge=0)
    """Where its random numbers begin."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Parts that the layers are cut into; each takes an equal part of the GPUs."""
    data_parallel_size: int = Field(1, ge=1)
    """Copies of the model behind one address; each takes an equal part of the GPUs."""
    lora_modules: dict[Text, Text] = Field(default_factory=dict)
    """LoRA adapters: the name that clients ask for, one of the model's `aliases` → a folder on the node or a Hugging Face id."""
    extra_args: tuple[Word, ...] = ()
    """Further words of the command line, as they are."""
    env: dict[Variable, str] = Field(default_factory=dict)
    """Further variables of its environment. They lie in the store as they stand."""

    @property
    def cuts(self) -> int:
        """How many parts the GPUs are divided into; within one, tensors are spread over all of its GPUs."""
        return self.pipeline_parallel_size * self.data_parallel_size
