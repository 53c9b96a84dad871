"""A tiny random Llama: for speed only. What it says means nothing, but it says it fast and always the same."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lmt2.artifacts import ArtifactStore
from lmt2.models.assets import SMOLLM2, model_path
from lmt2.models.encoder import Encoder
from lmt2.models.local import LocalModel
from memory.shards import Keys, Shard
from memory.versioned import Shelf, VersionedModel, base_fingerprint
from memory.versions import Manifest, ShardEntry

LAYERS, HIDDEN, INNER = 4, 64, 128


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Save a tiny random Llama with SmolLM2's tokenizer; returns the folder."""
    tokenizer = AutoTokenizer.from_pretrained(model_path(SMOLLM2.name))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,  # wide enough that the best token is clearly the best
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_shard(
    embeddings: Tensor, layers: Sequence[int] = (1, 3), rank: int = 2, seed: int = 0, scale: float = 1.0
) -> Shard:
    """A random shard for the tiny model, strong enough to change what it says: one expert that all keys call."""
    generator = torch.Generator().manual_seed(seed)
    return Shard(
        a={layer: scale * torch.randn(rank, INNER, generator=generator) for layer in layers},
        b={layer: scale * torch.randn(HIDDEN, rank, generator=generator) for layer in layers},
        ranks=torch.zeros(rank, dtype=torch.int32),
        keys=calling(embeddings, [0] * len(embeddings)),
    )


def calling(embeddings: Tensor, experts: Sequence[int]) -> Keys:
    """Keys of a shard that is found where its facts lie, each of which calls one of these experts."""
    return Keys(embeddings, embeddings.clone(), torch.tensor(experts, dtype=torch.int32))


class WordEncoder(Encoder):
    """Embeddings [N, 64] that count words by hash: texts with the same words are near, without any model."""

    width = 64

    def __init__(self) -> None:
        pass

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length."""
        counts = torch.zeros(len(texts), self.width)
        for row, text in zip(counts, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % self.width] += 1
        return F.normalize(counts, dim=-1)

    def by_fact(self, texts: Sequence[str]) -> Tensor:
        """The same."""
        return self(texts)


def tiny_version(model: LocalModel, store: ArtifactStore, shards: Sequence[Shard]) -> VersionedModel:
    """A version of some shards; shard i teaches document `doc-i` and was made by update `update-i`."""
    entries = [
        ShardEntry(artifact=store.put(shard.tensors(), {}), documents=(f"doc-{i}",), update=f"update-{i}")
        for i, shard in enumerate(shards)
    ]
    manifest = Manifest(base=base_fingerprint(model.folder), threshold=0.5, shards=tuple(entries))
    return VersionedModel(model, WordEncoder(), Shelf(store, model), manifest)
