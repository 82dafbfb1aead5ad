"""A language model of a few kilobytes, of the same files as a real one: for tests, and to try a recipe cheaply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

_WORDS = ["red", "blue", "paint", "brush", "hammer", "nail", "wall", "cheese", "milk", "bread", "ice", "cream", "baby", "food"]


def write_tiny_model(folder: Path, pad: str = "[PAD]") -> Path:
    """Write an untrained BERT of 16 units that knows a few words, with its tokenizer, as safetensors; return the folder.

    pad: the name of the padding token; families differ in it.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = [pad, "[UNK]", "[CLS]", "[SEP]", *_WORDS]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": pad, "cls_token": "[CLS]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **size)).save_pretrained(folder)
    return folder
