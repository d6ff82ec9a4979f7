"""Where a flow's files lie and where its jobs run: the names that its input document carries."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from hpc_bridge.ports import Json
from phasing.errors import PhaselineError


class OutsideFolder(PhaselineError):
    """A file that does not lie where transfers can take it from."""


@dataclass(frozen=True)
class Folder:
    """A folder of a collection.

    ``collection`` is what transfers call the collection, ``path`` the folder's path in it, and ``root`` the same folder
    as the machine that has it names it. Paths within are relative, with forward slashes.
    """

    collection: str
    path: str
    root: Path

    def below(self, relative: str) -> "Folder":
        """Return a folder within this one."""
        return Folder(self.collection, self.in_collection(relative), self.on_disk(relative))

    def of(self, file: Path) -> str:
        """Return the relative path of a file of this machine. Raises OutsideFolder when it lies elsewhere."""
        found = file.resolve()
        if not found.is_relative_to(self.root):
            raise OutsideFolder(f"{file} is not below {self.root}")
        return found.relative_to(self.root).as_posix()

    def relative(self, path: str) -> str:
        """Return the relative path of a file by what the machine that has the folder calls it. Raises OutsideFolder."""
        found = PurePosixPath(path)
        if not found.is_relative_to(self.root):
            raise OutsideFolder(f"{path} is not below {self.root}")
        return str(found.relative_to(self.root))

    def in_collection(self, relative: str) -> str:
        """Return where a file within lies in the collection."""
        return str(PurePosixPath(self.path) / relative)

    def on_disk(self, relative: str) -> Path:
        """Return where a file within lies for the machine that has the folder."""
        return self.root / relative


def items(source: Folder, destination: Folder, files: Mapping[str, str]) -> list[Json]:
    """List what a transfer copies; ``files`` maps relative paths at the source to relative paths at the destination."""
    return [
        {"source_path": source.in_collection(origin), "destination_path": destination.in_collection(target)}
        for origin, target in files.items()
    ]


@dataclass(frozen=True)
class Site:
    """One way to the compute side.

    ``root`` is the folder of the beamline below which the results lie.
    ``scans``, ``results`` and ``registry`` (which holds the models' weights) are folders of the beamline, ``compute``
    one of the compute side. ``endpoints`` names where jobs run (reconstruct, train, register), ``functions`` what each
    job is called there. ``shared``: the compute side sees the beamline's files under the beamline's paths.
    """

    root: Path
    scans: Folder
    results: Folder
    registry: Folder
    compute: Folder
    endpoints: Mapping[str, str]
    functions: Mapping[str, str]
    shared: bool = True

    def within(self, place: str) -> "Site":
        """Return the same site with all that is computed in a folder of its own, such as an experiment's."""
        return replace(self, results=self.results.below(place), compute=self.compute.below(place))

    def head(self, label: str) -> Json:
        """What every document of a flow here says first."""
        names = ("scans", "results", "registry", "compute")
        folders: dict[str, Folder] = {name: getattr(self, name) for name in names}
        return {
            "label": label,
            "collections": {name: folder.collection for name, folder in folders.items()},
            "folders": {name: str(folder.root) for name, folder in folders.items()},
            "endpoints": dict(self.endpoints),
            "functions": dict(self.functions),
        }
