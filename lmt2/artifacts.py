"""The artifact store: safetensors files named by their hash, in a folder or any fsspec file system.

A file is written under a temporary name, flushed to disk and renamed, so that a name always stands for whole
content. What is read is hashed again and compared: a damaged file is an error, never a model.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lmt2.errors import ArtifactError, StorageError

NAME = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """Tensors by content hash."""

    def __init__(self, url: str) -> None:
        self.files, self.root = fsspec.core.url_to_fs(url)

    def put(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
        """Keep tensors; returns the SHA-256 of the file, which is its name. Putting the same again changes nothing."""
        # safetensors writes several metadata keys in an order that changes from call to call, and with it the hash
        content = save(dict(tensors), {"lmt2": json.dumps(dict(metadata), sort_keys=True)})
        digest = hashlib.sha256(content).hexdigest()
        target = self._path(digest)
        try:
            if not self.files.exists(target):
                self._write(target, content)
        except OSError as error:
            raise StorageError(f"the artifact store {self.root} refused {digest}: {error}; check disk space") from error
        return digest

    def get(self, digest: str) -> dict[str, Tensor]:
        """The tensors of an artifact.

        Raises:
            ArtifactError: the name is no hash, there is no such file, or its content isn't what the name says.
        """
        if not NAME.fullmatch(digest):
            raise ArtifactError(f"{digest!r} is not an artifact's name (a SHA-256 in hexadecimal)")
        try:
            content: bytes = self.files.cat_file(self._path(digest))
        except FileNotFoundError as error:
            raise ArtifactError(f"the artifact store {self.root} holds no {digest}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ArtifactError(f"artifact {digest} is damaged: its content has another hash")
        try:
            return load(content)
        except SafetensorError as error:
            raise ArtifactError(f"artifact {digest} is not a safetensors file: {error}") from error

    def _path(self, digest: str) -> str:
        return f"{self.root}/{digest[:2]}/{digest}.safetensors"

    def _write(self, target: str, content: bytes) -> None:
        if not isinstance(self.files, LocalFileSystem):
            self.files.pipe_file(target, content)  # object stores make whole objects visible at once
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"{target}.{uuid.uuid4().hex}.tmp")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
