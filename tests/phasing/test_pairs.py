from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phasing.errors import PairsError
from phasing.frames import prepare
from phasing.pairs import PairSet, PairSettings, load_pairs, make_pairs
from phasing.retrieve import Reconstruction
from phasing.scanfile import Scan
from phasing.simulate import SimulatedScan


def test_a_pair_is_a_prepared_frame_and_the_phase_under_the_probe(
    pairs: PairSet, scan: Scan, simulated: SimulatedScan
) -> None:
    assert np.array_equal(pairs.counts, prepare(scan.counts(), scan.geometry))
    assert pairs.unique_id.tolist() == scan.unique_id.tolist()
    correlations = []
    for index in range(0, 120, 10):
        true_rad = simulated.phase_rad(index)
        weights = pairs.weight.ravel() ** 2
        covariance = np.cov(true_rad.ravel(), pairs.phase_rad[index].ravel(), aweights=weights)
        correlations.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    assert min(correlations) > 0.9


def test_the_phase_has_no_circular_mean_over_the_scan(pairs: PairSet) -> None:
    mean = np.sum(np.exp(1j * pairs.phase_rad) * pairs.weight * pairs.mask)
    assert np.angle(mean) == pytest.approx(0.0, abs=1e-4)


def test_arrays_are_memory_mapped_float32(pairs: PairSet) -> None:
    for array in (pairs.counts, pairs.phase_rad):
        assert isinstance(array.base, np.memmap) or isinstance(array, np.memmap)
        assert array.dtype == np.float32
    assert pairs.weight.max() == 1.0


def test_constant_and_ramp_of_the_reconstruction_do_not_matter(
    pairs: PairSet, scan: Scan, reconstruction: Reconstruction, tmp_path: Path
) -> None:
    rows, columns = np.indices(reconstruction.object.shape)
    ramp = np.exp(1j * (1.0 + 0.05 * rows - 0.03 * columns)).astype(np.complex64)
    tilted = make_pairs(scan, replace(reconstruction, object=reconstruction.object * ramp), tmp_path / "pairs")
    difference = np.angle(np.exp(1j * (tilted.phase_rad - pairs.phase_rad)))
    assert np.abs(difference[:, 16:48, 16:48]).max() < 0.02


def test_a_coarser_grid_shows_the_same_sample(
    pairs: PairSet, scan: Scan, reconstruction: Reconstruction, tmp_path: Path
) -> None:
    coarse = make_pairs(scan, reconstruction, tmp_path / "pairs", PairSettings(pixel_size_m=2.0 * pairs.pixel_size_m))
    assert coarse.pixel_size_m == 2.0 * pairs.pixel_size_m
    # Pixel 32 is the position; pixel 32 + k of the coarse grid lies where 32 + 2 k of the fine one does.
    difference = np.angle(np.exp(1j * (coarse.phase_rad[:, 24:40, 24:40] - pairs.phase_rad[:, 16:48:2, 16:48:2])))
    assert np.abs(difference - np.median(difference)).max() < 1e-3


def test_written_again_replaces_what_was_there(
    pairs: PairSet, scan: Scan, reconstruction: Reconstruction, tmp_path: Path
) -> None:
    for _ in range(2):
        make_pairs(scan, reconstruction, tmp_path / "pairs")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs"]


def test_refuses_a_reconstruction_of_another_scan(scan: Scan, reconstruction: Reconstruction, tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="another"):
        make_pairs(scan, replace(reconstruction, scan_id="another"), tmp_path / "pairs")
    with pytest.raises(PairsError, match="frame ids"):
        make_pairs(scan, replace(reconstruction, unique_id=reconstruction.unique_id + 1), tmp_path / "pairs")
    turned = replace(reconstruction.geometry, transpose=True)
    with pytest.raises(PairsError, match="transpose"):
        make_pairs(scan, replace(reconstruction, geometry=turned), tmp_path / "pairs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pixel_size_m", [0.0, -1e-8, float("nan")])
def test_refuses_a_pixel_size_that_cannot_be(pixel_size_m: float) -> None:
    with pytest.raises(PairsError, match="pixel size must be above 0"):
        PairSettings(pixel_size_m=pixel_size_m)


def test_a_mask_says_where_the_phase_is_known(
    pairs: PairSet, scan: Scan, reconstruction: Reconstruction, tmp_path: Path
) -> None:
    lit = reconstruction.illumination() >= 0.01 * reconstruction.illumination().max()
    index_px = np.rint(reconstruction.position_px()).astype(int)
    for k in (0, 60, 119):  # the middle of the spiral, and its rim
        rows, columns = (slice(start - 32, start + 32) for start in index_px[k])
        assert np.array_equal(pairs.mask[k], lit[rows, columns] & (pairs.weight >= 0.02))
    assert pairs.mask[0].mean() > pairs.mask[119].mean()
    narrow = make_pairs(scan, reconstruction, tmp_path / "narrow", PairSettings(min_illumination=0.5, min_probe=0.5))
    assert narrow.mask.mean() < 0.5 * pairs.mask.mean()


def test_knows_which_symmetries_the_probe_has(pairs: PairSet) -> None:
    assert pairs.symmetry[0] == pytest.approx(1.0)
    assert min(pairs.symmetry) > 0.8, "a zone plate's probe is round"


def test_knows_how_bright_frames_are(pairs: PairSet) -> None:
    assert pairs.frame_counts == pytest.approx(pairs.counts.sum(axis=(1, 2), dtype=np.float64))


@pytest.fixture
def copied(pairs: PairSet, tmp_path: Path) -> Path:
    for path in pairs.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"meta\.json"):
        load_pairs(tmp_path)


@pytest.mark.parametrize(
    "name", ["reciprocal.npy", "phase.npy", "mask.npy", "weight.npy", "frame_counts.npy", "meta.json"]
)
def test_refuses_a_file_cut_short(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:-7])
    with pytest.raises(PairsError, match=name.replace(".", r"\.")):
        load_pairs(copied)


def test_refuses_not_a_number(copied: Path) -> None:
    phase_rad = np.load(copied / "phase.npy")
    phase_rad[-1, 3, 3] = np.nan
    np.save(copied / "phase.npy", phase_rad)
    damaged = load_pairs(copied)  # a set is not read as a whole before some of it is needed
    last = len(phase_rad) - 1
    assert damaged.fault_of(np.arange(last)) == ""
    assert damaged.fault_of(np.arange(last + 1)) == f"phase_rad of frame {damaged.unique_id[last]} is not finite"


def test_refuses_a_weight_that_is_not_a_number(copied: Path) -> None:
    weight = np.load(copied / "weight.npy")
    weight[3, 3] = np.nan
    np.save(copied / "weight.npy", weight)
    with pytest.raises(PairsError, match="weight is not finite"):
        load_pairs(copied)


def test_refuses_unequal_counts(copied: Path) -> None:
    np.save(copied / "phase.npy", np.load(copied / "phase.npy")[:-1])
    with pytest.raises(PairsError, match="phase_rad has shape"):
        load_pairs(copied)
