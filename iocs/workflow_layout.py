"""Where on the beamline's side everything lies, and what runs are called."""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The beamline's own folders below the root, all absolute."""

    scans: Path
    registry: Path
    journal: Path

    @classmethod
    def below(cls, root: Path, scans: Path) -> "Layout":
        """The layout below a root; the folders are made."""
        root = root.resolve()
        layout = cls(scans, root / "registry", root / "journal")
        for folder in (layout.scans, layout.registry, layout.journal):
            folder.mkdir(parents=True, exist_ok=True)
        return layout

    @property
    def exchange(self) -> Path:
        """Where models lie that are put in and taken out by PVs."""
        return self.registry.parent / "exchange"

    @property
    def switches(self) -> Path:
        """What operators have switched, kept over restarts."""
        return self.journal / "switches.json"

    @property
    def inbox(self) -> Path:
        """Where flows that run elsewhere leave what is to be registered."""
        return self.journal / "inbox"


def new_id(name: str) -> str:
    """An id for a run or round that people can tell apart: a name and eight random digits."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{uuid.uuid4().hex[:8]}"
