"""`phaseline model`: the registry on the command line, while the workflow IOC runs or not.

What is put live here is announced by a running workflow IOC within a second, and else when it starts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from iocs import model_add
from iocs.config import Config
from iocs.workflow_layout import Layout
from phasing.archive import export_model, import_model
from phasing.errors import ModelError
from phasing.store import Entry, ModelState, Registry

Command = Callable[..., argparse.ArgumentParser]
Prepared = Callable[[argparse.Namespace], Config]


def declare(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", command: Command, prepared: Prepared
) -> None:
    """Add the actions of `phaseline model`."""

    def action(name: str, function: Callable[[Models, argparse.Namespace], str], text: str) -> argparse.ArgumentParser:
        def run(options: argparse.Namespace) -> int:
            print(function(Models(prepared(options), options), options))
            return 0

        return command(actions, name, run, text)

    add = command(actions, "add", lambda options: model_add.run(prepared(options), options), "register a network")
    model_add.declare(add)
    listing = action("list", Models.listing, "list the models, the newest first")
    listing.add_argument("--all", action="store_true", help="models of all lineages")
    show = action("show", Models.show, "print the card of a model as JSON")
    select = action("select", Models.select, "put a model live")
    accept = action("accept", Models.accept, "put the newest candidate live")
    rollback = action("rollback", Models.rollback, "put the parent of the active model live")
    delete = action("delete", Models.delete, "mark a model for deletion, and then delete it for good")
    delete.add_argument("--for-good", action="store_true", help="delete what is marked")
    export = action("export", Models.export, "write a model into one file")
    for parser in (show, select, delete, export):
        parser.add_argument("version", type=int)
    export.add_argument("file", type=Path, metavar="FILE.zip")
    action("import", Models.take_in, "take in what `export` wrote").add_argument("file", type=Path, metavar="FILE.zip")
    for parser in (listing, select, accept, rollback):
        parser.add_argument("--lineage", metavar="NAME", help="by default the present experiment's")


class Models:
    """The registry of a configuration; every method returns what is to be printed."""

    def __init__(self, config: Config, options: argparse.Namespace) -> None:
        layout = Layout.below(config.root, config.scans)
        self._registry = Registry(layout.registry)
        self._lineage: str = getattr(options, "lineage", None) or model_add.experiment_lineage(
            config, layout, config.geometry.geometry()
        )

    def listing(self, options: argparse.Namespace) -> str:
        """One line for each model."""
        entries = self._registry.versions() if options.all else self._registry.choices(self._lineage)
        active = self._registry.active(self._lineage)
        live = None if active is None else active.version
        lines = [_line(entry, live, with_lineage=options.all) for entry in reversed(entries)]
        return "\n".join([_HEAD, *lines]) if lines else f"no models of lineage {self._lineage}"

    def show(self, options: argparse.Namespace) -> str:
        """The card without the probe, with state and reason; the files are verified."""
        entry = self._registry.entry(options.version)
        self._registry.onnx_bytes(options.version)
        weights = self._registry.checkpoint_path(options.version)
        return shown(entry, has_weights=weights is not None)

    def select(self, options: argparse.Namespace) -> str:
        """Put a version live, whatever lineage it is of."""
        return self._put_live(options.version, "selected on the command line")

    def accept(self, _: argparse.Namespace) -> str:
        """Put the newest candidate live that waits."""
        waiting = [one for one in self._registry.versions(self._lineage) if one.state is ModelState.CANDIDATE]
        if not waiting:
            raise ModelError(f"no candidate of lineage {self._lineage} waits: `model select` puts any version live")
        return self._put_live(waiting[-1].card.version, "accepted on the command line")

    def rollback(self, _: argparse.Namespace) -> str:
        """Put the active model's parent live."""
        active = self._registry.active(self._lineage)
        if active is None or active.parent is None:
            raise ModelError("the active model has no parent to go back to: use `model select`")
        return self._put_live(active.parent, f"rolled back from version {active.version} on the command line")

    def delete(self, options: argparse.Namespace) -> str:
        """The first step of deleting, or the second."""
        if options.for_good:
            self._registry.delete(options.version)
            return f"version {options.version} is deleted"
        self._registry.mark_for_deletion(options.version)
        return f"version {options.version} is marked; `phaseline model delete {options.version} --for-good` deletes it"

    def export(self, options: argparse.Namespace) -> str:
        """Write a version into a file."""
        export_model(self._registry, options.version, options.file)
        return f"{options.file}"

    def take_in(self, options: argparse.Namespace) -> str:
        """Take a model from a file."""
        card = import_model(self._registry, options.file)
        return f"version {card.version}, lineage {card.lineage}"

    def _put_live(self, version: int, reason: str) -> str:
        self._registry.onnx_bytes(version)
        self._registry.set_active(version, reason, lineage=self._lineage)
        return f"version {version} is active in lineage {self._lineage}; the workflow IOC announces it"


_HEAD = f"{'version':>7} {'parent':>6} {'state':<13} {'loss':>7} {'before':>7} {'scans':>5} {'frames':>7} created"


def _line(entry: Entry, live: int | None, *, with_lineage: bool) -> str:
    card = entry.card
    state = ModelState.ACTIVE if card.version == live else entry.state
    losses = (f"{loss:.4f}" if loss is not None else "-" for loss in (card.val_loss, card.incumbent_val_loss))
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(card.created_s))
    loss, before = losses
    line = f"{card.version:>7} {card.parent or '-':>6} {state:<13} {loss:>7} {before:>7} {len(card.scans):>5}"
    return f"{line} {card.num_samples:>7} {created}" + (f" {card.lineage}" if with_lineage else "")


def shown(entry: Entry, *, has_weights: bool) -> str:
    """A card as JSON that people read: without the probe's intensity, with state and reason."""
    card = {name: value for name, value in entry.card.to_json().items() if name != "probe_intensity"}
    return json.dumps({"state": entry.state, "reason": entry.reason, "has_weights": has_weights, **card}, indent=1)
