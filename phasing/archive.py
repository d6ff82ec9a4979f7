"""A model in one file, to be carried to another registry: network, card and weights, each with its digest."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from phasing.card import ModelCard
from phasing.errors import ModelError
from phasing.files import replaced_file
from phasing.store import Registry

_MANIFEST, _NETWORK, _CHECKPOINT = "manifest.json", "model.onnx", "checkpoint.pt"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile)


def export_model(registry: Registry, version: int, path: Path) -> None:
    """Write a version as one zip file, as a whole or not at all. Raises ModelError when it cannot be read or written.

    The parent is named by the digest of its network, for versions are numbered anew in every registry.
    """
    card, checkpoint = registry.card(version), registry.checkpoint_path(version)
    files = {_NETWORK: registry.onnx_bytes(version)}
    if checkpoint is not None:
        files[_CHECKPOINT] = checkpoint.read_bytes()
    parent = None if card.parent is None else registry.card(card.parent).digest
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = json.dumps({"card": card.to_json(), "parent": parent, "sha256": digests}, indent=1)
    try:
        with replaced_file(path) as part, zipfile.ZipFile(part, "w") as archive:
            archive.writestr(_MANIFEST, manifest)
            for name, content in files.items():
                archive.writestr(name, content)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error


def import_model(registry: Registry, path: Path) -> ModelCard:
    """Take in what export_model wrote, as a candidate of its lineage, and return its card here.

    Raises ModelError naming the file when it is damaged or no such file; then the registry is as it was.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest: dict[str, Any] = json.loads(archive.read(_MANIFEST))
            files = {name: archive.read(name) for name in (_NETWORK, _CHECKPOINT) if name in manifest["sha256"]}
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
                raise ModelError(f"{path}: {name} is damaged")
        parent = None if manifest["parent"] is None else registry.version_of(manifest["parent"])
        draft = replace(ModelCard.from_json(manifest["card"]), version=0, parent=parent)
    except _DAMAGED as error:
        raise ModelError(f"{path} is no exported model: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, name) for name in files}
        for name, content in files.items():
            paths[name].write_bytes(content)
        return registry.publish(paths[_NETWORK], paths.get(_CHECKPOINT), draft)
