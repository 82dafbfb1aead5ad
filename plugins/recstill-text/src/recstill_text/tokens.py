"""Tokenizers: the one that a model is fine-tuned with, and the same one again where it scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Of teachers whose card does not name them, which are all of this family.
_BERT_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
_TYPES = "token_type_ids"


def check_config(config: Any, model: str, max_tokens: int) -> None:
    """Raise ValueError for a model that cannot read plain texts, or none so long."""
    from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"model {model!r} is of type {config.model_type}, an encoder with a decoder, which reads no texts alone; name an "
            "encoder (BERT, RoBERTa, MPNet, DeBERTa, ModernBERT …) or a decoder"
        )
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and most > 0 and max_tokens > most:
        raise ValueError(f"max_tokens: model {model!r} reads at most {most} tokens, not {max_tokens}")


def load_tokenizer(source: Path | str, model: str, pad_token: str) -> Any:
    """Return the tokenizer of a pretrained model. Raise ValueError, with the way out, where it cannot fill short texts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if pad_token:
        if pad_token not in tokenizer.get_vocab():
            raise ValueError(f"pad_token: model {model!r} has no token {pad_token!r}; {_offers(tokenizer)}")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token is None:
        raise ValueError(f"model {model!r} names no token to fill short texts with; write `pad_token`: {_offers(tokenizer)}")
    return tokenizer


def tokenizer_card(tokenizer: Any) -> dict[str, Any]:
    """Return what of a tokenizer its file does not say, for the teacher's card."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {
        "special": special, "inputs": list(tokenizer.model_input_names), "padding": tokenizer.padding_side,
        "truncation": tokenizer.truncation_side, "pad_type": tokenizer.pad_token_type_id,
    }  # fmt: skip


def open_tokenizer(folder: Path, card: Mapping[str, Any], config: Any) -> Any:
    """Return the tokenizer that a teacher was fitted with. Raise ValueError where an older card does not tell whether the
    model was given token types."""
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = dict(card.get("special", _BERT_TOKENS))
    if "inputs" in card:
        options |= {
            "model_input_names": card["inputs"], "padding_side": card["padding"], "truncation_side": card["truncation"],
            "pad_token_type_id": card["pad_type"],
        }  # fmt: skip
    elif (getattr(config, "type_vocab_size", 0) or 0) > 1:
        raise ValueError(
            f"{folder} was fitted by an older recstill, which did not keep whether it reads {_TYPES}: fit the teacher anew"
        )
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **options)


def _offers(tokenizer: Any) -> str:
    known = list(dict.fromkeys(str(token) for token in tokenizer.all_special_tokens))
    return f"it has {', '.join(map(repr, known))}" if known else "it has no special token; any of its words will do"
