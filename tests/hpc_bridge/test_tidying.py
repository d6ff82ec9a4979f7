"""Quotas and retention of what is computed."""

import os
import time

import pytest

from hpc_bridge.tidying import DAY_S, Rule, tidy


@pytest.fixture
def root(tmp_path):
    """Five copies of 1000 bytes, one day older each, of two samples; a result that is nobody's to remove."""
    for number in range(5):
        folder = tmp_path / "p" / f"s{number % 2}" / "scans" / f"run-{number}"
        folder.mkdir(parents=True)
        (folder / "scan.h5").write_bytes(bytes(1000))
        when_s = time.time() - (number + 0.5) * DAY_S
        os.utime(folder / "scan.h5", (when_s, when_s))
    (tmp_path / "p" / "s0" / "reconstructions").mkdir()
    (tmp_path / "p" / "s0" / "reconstructions" / "run-0.h5").write_bytes(bytes(1000))
    return tmp_path


def left(root):
    return sorted(path.name for path in root.glob("*/*/scans/*"))


def test_the_oldest_make_way_until_the_quota_holds(root):
    (found,) = tidy(root, [Rule("scans", quota_bytes=2500)], in_use=())
    assert (found.kind, found.number, found.freed_bytes) == ("scans", 3, 3000)
    assert left(root) == ["run-0", "run-1"]
    assert tidy(root, [Rule("scans", quota_bytes=2500)], in_use=()) == []
    assert (root / "p" / "s0" / "reconstructions" / "run-0.h5").is_file()


def test_what_is_too_old_goes_and_what_is_in_use_stays(root):
    (found,) = tidy(root, [Rule("scans", keep_s=2 * DAY_S), Rule("pairs", keep_s=1.0)], in_use={"run-4"})
    assert found.number == 2
    assert left(root) == ["run-0", "run-1", "run-4"]


def test_no_limit_removes_nothing_and_a_file_counts_as_a_folder_does(root):
    assert tidy(root, [Rule("scans")], in_use=()) == []
    (found,) = tidy(root, [Rule("reconstructions", quota_bytes=0)], in_use=())
    assert (found.number, found.freed_bytes) == (1, 1000)
