"""Prompts to ids. Where a vocabulary comes from; the work itself is done by the core."""

from sdcore.tokenizer.clip import BOS, EOS, CLIPTokenizer, clip_vocabulary
from sdcore.tokenizer.t5 import T5Tokenizer

__all__ = ["BOS", "EOS", "CLIPTokenizer", "T5Tokenizer", "clip_vocabulary"]
