"""Figures of reconstructions: of a good one, of one at wrong places, of none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phasing.errors import RetrievalError
from phasing.quality import Quality, quality
from phasing.retrieve import Reconstruction, RetrieveSettings, retrieve
from phasing.scanfile import Scan


def quietly(scan: Scan, settings: RetrieveSettings) -> Reconstruction:
    return retrieve(scan, settings, lambda report: None)


def test_halves_of_a_good_scan_agree_and_those_at_wrong_places_do_not(
    scan: Scan, reconstruction: Reconstruction, settings: RetrieveSettings
) -> None:
    good = quality(scan, reconstruction, settings, quietly)
    assert good.ring_correlation is not None
    assert good.resolution_m is not None
    assert good.ring_correlation > 0.9
    assert 2 * reconstruction.pixel_size_m <= good.resolution_m < 5 * reconstruction.pixel_size_m
    wrong = replace(scan, position_m=np.random.default_rng(0).permutation(scan.position_m))
    bad = quality(wrong, quietly(wrong, settings), settings, quietly)
    assert bad.ring_correlation is not None
    assert bad.ring_correlation < 0.5
    assert bad.fourier_error > 1.2 * good.fourier_error


def test_a_scan_is_not_halved_unless_asked_for_and_long_enough(
    scan: Scan, reconstruction: Reconstruction, settings: RetrieveSettings
) -> None:
    short = scan.part(np.arange(30))
    assert (short.num_frames, short.num_left_out) == (30, 90)
    assert np.array_equal(short.counts(), scan.counts(0, 30))
    for part, asked in ((short, True), (scan, False)):
        found = quality(part, reconstruction, settings, quietly, half_scans=asked)
        assert (found.ring_correlation, found.resolution_m) == (None, None)
        assert 0.0 < found.fourier_error < 1.0


def test_figures_are_kept_with_the_reconstruction(reconstruction: Reconstruction, tmp_path: Path) -> None:
    path = tmp_path / "reconstruction.h5"
    reconstruction.save(path)
    assert Quality.load(path) is None
    made = Quality(0.12, 0.9, 5e-8)
    made.save(path)
    assert Quality.load(path) == made
    assert np.array_equal(Reconstruction.load(path).object, reconstruction.object)
    with pytest.raises(RetrievalError, match=r"missing\.h5"):
        Quality.load(tmp_path / "missing.h5")


def test_a_limit_is_asked_for_only_where_there_is_one() -> None:
    found = Quality(0.3, 0.4, 1e-7)
    assert found.fault(max_fourier_error=0.0, min_ring_correlation=0.0) == ""
    assert "0.300, 0.2 is allowed" in found.fault(max_fourier_error=0.2, min_ring_correlation=0.0)
    assert "by 0.400, 0.5 is asked for" in found.fault(max_fourier_error=0.5, min_ring_correlation=0.5)
    assert Quality(0.3).fault(max_fourier_error=0.5, min_ring_correlation=0.5) == ""
    assert "nan" in Quality(float("nan")).fault(max_fourier_error=0.5, min_ring_correlation=0.0)
