"""Makes a Llama so small that a CPU serves it at once: `python tiny_model.py FOLDER`, with the Python that vLLM is installed in.

Its weights are left out, for vLLM makes random ones (`--load-format dummy`). FOLDER gets what else a model has: a config, a byte-level
BPE tokenizer trained on the text of these very folders, and a chat template; and in FOLDER/lora an adapter with random weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TOKENS, HIDDEN, HEADS, LAYERS, INNER, RANK = 4000, 256, 4, 4, 512, 8
SPECIAL = ("<s>", "</s>")
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": TOKENS,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": SPECIAL[0],
    "eos_token": SPECIAL[1],
    "chat_template": TEMPLATE,
    "model_max_length": 8192,
}
ADAPTER_CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": 64,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
}


def main(folder: Path) -> None:
    """Write the model and its adapter."""
    adapter = folder / "lora"
    adapter.mkdir(parents=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    for path, content in (
        (folder / "config.json", CONFIG),
        (folder / "tokenizer_config.json", TOKENIZER_CONFIG),
        (adapter / "adapter_config.json", ADAPTER_CONFIG),
    ):
        path.write_text(json.dumps(content, indent=1))
    save_file(adapter_weights(), adapter / "adapter_model.safetensors")


def tokenizer() -> Tokenizer:
    """Trained on the Python and Markdown files of all plugins."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    plugins = Path(__file__).parents[2]
    made.train(sorted(str(path) for end in ("py", "md") for path in plugins.rglob(f"*.{end}")), trainer)
    return made


def adapter_weights() -> dict[str, torch.Tensor]:
    """So large that its answers differ from the model's."""
    generator = torch.Generator().manual_seed(1)
    names = [f"base_model.model.model.layers.{layer}.self_attn.{part}" for layer in range(LAYERS) for part in ("q_proj", "v_proj")]
    return {f"{name}.{half}.weight": torch.randn(shape, generator=generator) for name in names for half, shape in _HALVES}


_HALVES = (("lora_A", (RANK, HIDDEN)), ("lora_B", (HIDDEN, RANK)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
