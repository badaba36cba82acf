"""Text to token ids and back, with a Hugging Face tokenizer. Knows nothing about tasks or weights."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


class HfCodec:
    """A `TextCodec` on the tokenizer of a model directory."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Through the chat template where the model has one, as it is where not.

        Raises ValueError where the tokenizer drops some of it: a small one may not have every letter.
        """
        if self.tokenizer.chat_template is None:
            tokens = self.encode_text(prompt)
            # Compared without what white space may become.
            if lost := sorted(set(prompt) - set(self.decode(tokens)) - set(string.whitespace)):
                raise ValueError(
                    f"the model's tokenizer cannot write {''.join(lost)[:20]!r} of {prompt[:60]!r}; name another model "
                    "in model.path, or see task.style = 'digits'"
                )
            return tokens
        messages = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.encode_text(text)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Token ids of bare text."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Every token's text, special ones left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def eos_ids(self) -> frozenset[int]:
        """The token that ends a text, where the tokenizer has one."""
        return frozenset() if self.tokenizer.eos_token_id is None else frozenset({int(self.tokenizer.eos_token_id)})
