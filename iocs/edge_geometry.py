"""Whether frames are measured as the model's were: their energy and detector distance, where they carry them."""

import math
from collections.abc import Mapping

from iocs.config import EdgeSection
from iocs.stream import Attribute
from phasing.card import ModelCard


class GeometryCheck:
    """Compares what the frames say about their geometry with the card of the model, once for each change."""

    def __init__(self, edge: EdgeSection) -> None:
        self._edge = edge
        self._seen: tuple[object, ...] = ()
        self._found = ""

    def mismatch(self, attributes: Mapping[str, Attribute], card: ModelCard) -> str:
        """What differs, for people; empty when nothing does or the frame does not say."""
        energy = attributes.get(self._edge.energy_attribute)
        distance = attributes.get(self._edge.distance_attribute)
        seen = (energy, distance, card)
        if seen != self._seen:
            self._seen = seen
            geometry = card.geometry
            found = (
                self._differs("energy", energy, self._edge.energy_unit_ev, geometry.energy_ev, "eV"),
                self._differs("distance", distance, self._edge.distance_unit_m, geometry.distance_m, "m"),
            )
            self._found = ", ".join(text for text in found if text)
        return self._found

    def _differs(self, what: str, value: Attribute | None, unit: float, wanted: float, unit_name: str) -> str:
        if not isinstance(value, int | float):
            return ""
        have = float(value) * unit
        if math.isclose(have, wanted, rel_tol=self._edge.geometry_tolerance):
            return ""
        return f"{what} {have:g} {unit_name}, the model's is {wanted:g} {unit_name}"
