import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from phasing.card import FloatArray, ModelCard, lineage_key
from phasing.errors import ModelError
from phasing.geometry import Geometry


@pytest.fixture
def card(tiny_geometry: Geometry) -> ModelCard:
    return ModelCard(
        version=3,
        parent=None,
        lineage="tungsten-0123456789",
        digest="ab" * 32,
        scans=("one", "two"),
        val_loss=0.4,
        incumbent_val_loss=0.5,
        losses=(0.9, 0.45),
        val_losses=(0.8, 0.4),
        input_shape=(1, 16, 16),
        geometry=replace(tiny_geometry, mask=np.eye(16, dtype=bool)),
        counts_scale=0.01,
        pixel_size_m=26e-9,
        probe_intensity=np.random.default_rng(0).random((16, 16), np.float32),
        created_s=1.7e9,
        seconds=20.0,
    )


def test_travels_as_json_without_loss(card: ModelCard) -> None:
    back = ModelCard.from_json(json.loads(json.dumps(card.to_json())))
    for field in fields(card):
        if field.name not in ("geometry", "probe_intensity"):
            assert getattr(back, field.name) == getattr(card, field.name)
    assert back.geometry.differences(card.geometry) == ()
    assert np.array_equal(back.probe_intensity, card.probe_intensity)
    assert set(card.to_json()) == {field.name for field in fields(card)}


def test_a_loss_that_nobody_knows_travels_as_none(card: ModelCard) -> None:
    unknown = replace(card, val_loss=None, incumbent_val_loss=None)
    back = ModelCard.from_json(json.loads(json.dumps(unknown.to_json())))
    assert back.val_loss is None
    assert back.incumbent_val_loss is None


def test_every_missing_key_is_named(card: ModelCard) -> None:
    for key in card.to_json():
        data = card.to_json()
        del data[key]
        with pytest.raises(ModelError, match=f"{key} is missing"):
            ModelCard.from_json(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "three"),
        ("version", -1),
        ("digest", "abc"),
        ("scans", None),
        ("val_loss", "low"),
        ("losses", ["low"]),
        ("input_shape", [1, 16]),
        ("input_shape", [1, 16, 8]),
        ("geometry", {}),
        ("counts_scale", 0.0),
        ("pixel_size_m", -1.0),
        ("probe_intensity", "AAAA"),
        ("probe_intensity", "?"),
    ],
)
def test_every_wrong_key_is_named(card: ModelCard, key: str, value: Any) -> None:
    wrong_key = "probe_intensity" if value == [1, 16, 8] else key
    with pytest.raises(ModelError, match=wrong_key):
        ModelCard.from_json({**card.to_json(), key: value})


@pytest.mark.parametrize("intensity", [np.zeros((16, 16)), -np.ones((16, 16)), np.full((16, 16), np.nan)])
def test_a_weight_that_cannot_stitch_is_refused(card: ModelCard, intensity: FloatArray) -> None:
    with pytest.raises(ModelError, match="probe_intensity is wrong"):
        replace(card, probe_intensity=intensity.astype(np.float32))


def test_a_network_of_another_size_than_its_frames_is_refused(card: ModelCard) -> None:
    with pytest.raises(ModelError, match="input_shape is wrong"):
        replace(card, geometry=replace(card.geometry, bin_px=2))


def test_a_lineage_holds_together_what_may_follow_one_another(tiny_geometry: Geometry) -> None:
    key = lineage_key("Tungsten test!", tiny_geometry, "plate 1")
    assert key.startswith("tungsten-test-")
    assert len(key) < 39
    rounded = replace(tiny_geometry, energy_ev=tiny_geometry.energy_ev * (1 + 1e-9), crop_center_px=(8, 8))
    masked = replace(tiny_geometry, mask=np.eye(16, dtype=bool))
    assert {key} == {lineage_key("Tungsten test!", geometry, "plate 1") for geometry in (rounded, masked)}
    others = [
        lineage_key("Tungsten test", tiny_geometry, "plate 2"),
        lineage_key("Siemens star", tiny_geometry, "plate 1"),
        *(
            lineage_key("Tungsten test!", replace(tiny_geometry, **change), "plate 1")
            for change in ({"energy_ev": 9e3}, {"distance_m": 2.0}, {"transpose": True}, {"crop_px": 14}, {"bin_px": 2})
        ),
    ]
    assert len({key, *others}) == 8
