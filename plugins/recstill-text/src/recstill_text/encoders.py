"""Transformer teachers: a cross-encoder that reads query and title together, a bi-encoder that reads them apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill.training.loop import has_fast_bf16
from recstill_text.finetuning import finetune
from recstill_text.pretrained import NAMED, find_model
from recstill_text.running import all_threads, as_texts
from recstill_text.tokens import check_config, load_tokenizer, open_tokenizer, tokenizer_card

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.api import ColumnInputs, ColumnRows, LabelSpec

_CARD = "teacher.json"
_SCORING_BATCH = 256


class _Encoder(nn.Module):
    """A transformer with mean pooling (Reimers & Gurevych, 2019). forward: token ids and mask (B, L) -> (B, width)."""

    def __init__(self, transformer: nn.Module, width: int, labels: Sequence[LabelSpec]) -> None:
        super().__init__()
        self.transformer, self.width = transformer, width
        self.heads = nn.Linear(width, len(labels))
        self.scale, self.shift = nn.Parameter(torch.full((len(labels),), 5.0)), nn.Parameter(torch.full((len(labels),), -2.0))

    def pooled(self, tokens: Mapping[str, Tensor]) -> Tensor:
        said = self.transformer(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(2).to(said.dtype)
        return (said * mask).sum(1) / mask.sum(1).clamp(min=1)


class _TextTeacher:
    """What both teachers share: options, fine-tuning on the labels, files. Labels may be binary (graded too) or regression."""

    reads: ClassVar[Literal["columns"]] = "columns"

    def __init__(
        self,
        inputs: ColumnInputs,
        *,
        model: str = "minilm-l6",
        query: str = "query",
        title: str = "title",
        epochs: int = 3,
        batch_size: int = 32,
        learning_rate: float = 5e-5,
        max_tokens: int = 64,
        threads: int = 0,
        limit: int = 0,
        pad_token: str = "",
    ) -> None:
        names = {feature.name: feature for feature in inputs.features}
        for column in (query, title):
            if column not in names or names[column].kind != "text":
                texts = [feature.name for feature in inputs.features if feature.kind == "text"]
                raise ValueError(f"{column!r} is no text feature of the task; it has {', '.join(texts) or 'none'}")
        if wrong := [label.name for label in inputs.labels if label.kind not in ("binary", "regression")]:
            raise ValueError(f"a text teacher answers binary and regression labels, and {wrong[0]!r} is neither")
        if min(epochs, batch_size, max_tokens) < 1 or learning_rate <= 0:
            raise ValueError("epochs, batch_size, max_tokens and learning_rate must be above 0")
        self.labels, self.source = inputs.labels, find_model(model)
        self.query, self.title = query, title
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.max_tokens, self.threads, self.limit = max_tokens, threads, limit
        self.pad_token, self.model = pad_token, model
        config = _config(self.source)
        check_config(config, model, max_tokens)
        self.hidden = self._hidden(config.hidden_size)

    @staticmethod
    def needs(options: Mapping[str, Any]) -> list[str]:
        """Return the data sets that carry the pretrained model of these options."""
        return [name for name in (options.get("model", "minilm-l6"),) if name in NAMED]

    def check(self) -> None:
        """Load the tokenizer that fitting would use. Raise ValueError if the model cannot be used with it."""
        load_tokenizer(self.source, self.model, self.pad_token)

    @staticmethod
    def reads_files(options: Mapping[str, Any]) -> list[Path]:
        """Return the folder of the pretrained model of these options, where it is one of this machine."""
        source = find_model(options.get("model", "minilm-l6"))
        return [] if isinstance(source, str) else [source]

    def _hidden(self, width: int) -> dict[str, int]:
        raise NotImplementedError

    def fit(self, train: ColumnRows, valid: ColumnRows, folder: Path, seed: int, progress: Callable[[str], None]) -> None:
        """Fine-tune on the rows whose labels are known, keep the epoch of the best validation loss."""
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.manual_seed(seed)
        transformer = AutoModel.from_pretrained(self.source, use_safetensors=True, trust_remote_code=False)
        tokenizer = load_tokenizer(self.source, self.model, self.pad_token)
        encoder = _Encoder(transformer, transformer.config.hidden_size, self.labels)
        finetune(self, encoder, _Tokens(tokenizer, self.max_tokens), train, valid, folder, seed, progress)
        tokenizer.save_pretrained(folder / ".tokenizer")
        (folder / ".tokenizer" / "tokenizer.json").replace(folder / "tokenizer.json")
        transformer.config.to_json_file(folder / "config.json")
        labels = [label.name for label in self.labels]
        card = {"max_tokens": self.max_tokens, "labels": labels, "kind": type(self).__name__, **tokenizer_card(tokenizer)}
        (folder / _CARD).write_text(json.dumps(card))

    def open(self, folder: Path) -> _Predictor:
        """Load the files. Raise ValueError if they are another teacher's, or their tensors are not of the shapes they claim."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel

        card = json.loads((folder / _CARD).read_text())
        if (card["kind"], card["labels"]) != (type(self).__name__, [label.name for label in self.labels]):
            raise ValueError(f"{folder} holds a {card['kind']} for {card['labels']}")
        transformer = AutoModel.from_config(AutoConfig.from_pretrained(folder), trust_remote_code=False)
        encoder = _Encoder(transformer, transformer.config.hidden_size, self.labels)
        try:
            encoder.load_state_dict(load_file(folder / "model.safetensors"))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"model.safetensors does not fit config.json: {str(error)[:300]}") from error
        tokenizer = open_tokenizer(folder, card, transformer.config)
        return _Predictor(self, encoder.eval(), _Tokens(tokenizer, card["max_tokens"]))

    def logits(self, encoder: _Encoder, tokens: _Tokens, queries: Sequence[str], titles: Sequence[str]) -> Any:
        """Return logits (B, labels) and hidden vectors by name."""
        raise NotImplementedError


class CrossEncoder(_TextTeacher):
    """Query and title as one sequence through a transformer (Nogueira & Cho, 2019). hidden: `backbone`.

    model: `minilm-l6`, a folder, `package:NAME/FOLDER` or `hf:ORGANISATION/NAME`; safetensors only. query, title: text features
    of the task. max_tokens: of both together. threads: torch threads while fine-tuning and scoring, 0 for all cores.
    limit: at most this many training rows, 0 for all. pad_token: a token that the model has already, to fill short texts with,
    for a model whose tokenizer names none (decoders).
    """

    def _hidden(self, width: int) -> dict[str, int]:
        return {"backbone": width}

    def logits(self, encoder: _Encoder, tokens: _Tokens, queries: Sequence[str], titles: Sequence[str]) -> Any:
        said = encoder.pooled(tokens.pairs(queries, titles))
        return encoder.heads(said), {"backbone": said}


class BiEncoder(_TextTeacher):
    """Query and title apart, scored by the cosine of their vectors, stretched and shifted (Reimers & Gurevych, 2019).

    hidden: `query` and `item`, of length one. Options as those of the cross-encoder.
    """

    def _hidden(self, width: int) -> dict[str, int]:
        return {"query": width, "item": width}

    def logits(self, encoder: _Encoder, tokens: _Tokens, queries: Sequence[str], titles: Sequence[str]) -> Any:
        query = F.normalize(encoder.pooled(tokens.texts(queries)).float(), dim=1)
        item = F.normalize(encoder.pooled(tokens.texts(titles)).float(), dim=1)
        cosine = (query * item).sum(1, keepdim=True)
        return cosine * encoder.scale + encoder.shift, {"query": query, "item": item}


@dataclass
class _Tokens:
    tokenizer: Any
    length: int

    def pairs(self, queries: Sequence[str], titles: Sequence[str]) -> dict[str, Tensor]:
        return self._padded(list(queries), list(titles))

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return self._padded(list(texts))

    def _padded(self, *texts: list[str]) -> dict[str, Tensor]:
        """Return ids and mask (B, L). A text without a token, as some tokenizers leave an empty one, is one padding token."""
        found = self.tokenizer(*texts, truncation=True, max_length=self.length, padding=True)
        if not found["input_ids"][0]:
            found = self.tokenizer(*texts, truncation=True, max_length=1, padding="max_length")
        found = {name: torch.tensor(values) for name, values in found.items()}
        empty = found["attention_mask"].sum(1) == 0
        found["attention_mask"][empty, 0] = 1
        return {name: found[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in found}


class _Predictor:
    """A fine-tuned teacher; texts of like length share a batch, and each distinct pair is read once."""

    def __init__(self, teacher: _TextTeacher, encoder: _Encoder, tokens: _Tokens) -> None:
        self.teacher, self.encoder, self.tokens = teacher, encoder, tokens
        self.hidden = teacher.hidden
        self.num_parameters = sum(p.numel() for p in encoder.parameters())

    @torch.no_grad()
    def __call__(
        self, columns: Mapping[str, NDArray[np.generic]], hidden: Sequence[str] = ()
    ) -> dict[str, NDArray[np.float32]]:
        queries, titles = as_texts(columns[self.teacher.query]), as_texts(columns[self.teacher.title])
        distinct = dict.fromkeys(zip(queries, titles, strict=True))
        pairs = sorted(distinct, key=lambda pair: len(pair[0]) + len(pair[1]))
        found: dict[str, list[Tensor]] = {}
        with all_threads(self.teacher.threads):
            for start in range(0, len(pairs), _SCORING_BATCH):
                some = pairs[start : start + _SCORING_BATCH]
                with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
                    logits, said = self.teacher.logits(self.encoder, self.tokens, *zip(*some, strict=True))
                for place, label in enumerate(self.teacher.labels):
                    found.setdefault(f"logit_{label.name}", []).append(logits[:, place].float())
                for name in hidden:
                    found.setdefault(f"hidden_{name}", []).append(said[name].half())
        place_of = {pair: place for place, pair in enumerate(pairs)}
        order = np.array([place_of[pair] for pair in zip(queries, titles, strict=True)])
        return {name: torch.cat(parts).numpy()[order] for name, parts in found.items()}


def _config(source: Path | str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source, trust_remote_code=False)
