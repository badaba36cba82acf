"""The tiny model: a Qwen2 of 0.8M parameters over characters, small enough for the repository and for two CPU cores."""

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

TAGS = ("<step>", "</step>", "<answer>", "</answer>")
SPECIAL = ("<pad>", "<eos>")
CHARACTERS = "0123456789+-*/()=|: "
BYTE_LEVEL_SPACE = "Ġ"
NUM_ROWS = 64
"""Rows of the embedding: more than tokens, since vLLM's value head needs spare ones."""


def tiny_tokenizer() -> Any:
    """One token a character, and one a tag: Qwen2's own byte-level tokenizer without a single merge.

    Of that class because Hugging Face loads a Qwen2 directory's tokenizer as it, whatever the directory says.
    """
    characters = (character.replace(" ", BYTE_LEVEL_SPACE) for character in CHARACTERS)
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *TAGS, *characters))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="<pad>", pad_token="<pad>", eos_token="<eos>")
    tokenizer.add_tokens(list(TAGS))
    return tokenizer


def tiny_model(num_layers: int = 4, hidden_size: int = 128) -> Any:
    """Random weights; seed torch before."""
    config = Qwen2Config(
        vocab_size=NUM_ROWS,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 3,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return Qwen2ForCausalLM(config)
