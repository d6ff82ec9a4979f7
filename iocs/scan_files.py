"""How scan files are read at this beamline, from the configuration."""

from pathlib import Path

from iocs.config import Config
from phasing.geometry import Geometry
from phasing.supplement import Axes, Readings, Supplement


class ScanFiles:
    """Says of each scan file what it does not say itself."""

    def __init__(self, config: Config, geometry: Geometry) -> None:
        """`geometry` is that of files that hold none."""
        self._geometry, self._section = geometry, config.scan_files
        edge, axes = config.edge, config.scan_files.positions or config.edge.positions
        self._axes = Axes(**{name: getattr(axes, name) for name in Axes.__dataclass_fields__})
        self._readings = Readings(
            scan_id=edge.scan_id_attribute,
            energy=edge.energy_attribute,
            energy_unit_ev=edge.energy_unit_ev,
            distance=edge.distance_attribute,
            distance_unit_m=edge.distance_unit_m,
            tolerance=edge.geometry_tolerance,
        )

    def supplement(self, path: Path, position_file: str = "", max_missing: int = 0) -> Supplement:
        """What a file needs to be read; `position_file` is its own, where empty the configured one."""
        section = self._section
        configured = section.position_file.replace("{stem}", path.stem)
        chosen = Path(position_file) if position_file else (path.parent / configured).resolve() if configured else None
        return Supplement(
            geometry=self._geometry,
            data=section.data,
            attributes=section.attributes,
            numbered=section.numbered,
            axes=self._axes,
            readings=self._readings,
            position_file=chosen,
            max_missing=max_missing,
        )
