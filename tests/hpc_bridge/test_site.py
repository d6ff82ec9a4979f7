"""Where files lie for transfers, and for the machines that have them."""

from pathlib import Path

import pytest

from hpc_bridge.documents import Parent, Submission, round_document, run_document
from hpc_bridge.site import Folder, OutsideFolder, Site, items


@pytest.fixture
def site(tmp_path):
    """A site whose compute side is another machine: its paths are not this one's."""
    return Site(
        tmp_path,
        Folder("beamline", "/scans", tmp_path / "scans"),
        Folder("beamline", "/results", tmp_path / "results"),
        Folder("beamline", "/registry", tmp_path / "registry"),
        Folder("cluster", "/~/phaseline", Path("/eagle/ptycho")),
        endpoints={"reconstruct": "e1", "train": "e2", "register": "e3"},
        functions={"reconstruct": "f1"},
        shared=False,
    )


def test_a_file_has_one_path_for_transfers_and_one_for_its_machine(site):
    folder = site.compute.below("p/s")
    assert folder.in_collection("a.h5") == "/~/phaseline/p/s/a.h5"
    assert folder.on_disk("a.h5") == Path("/eagle/ptycho/p/s/a.h5")
    assert site.scans.of(site.root / "scans/day/a.h5") == "day/a.h5"
    with pytest.raises(OutsideFolder, match="is not below"):
        site.scans.of(site.root / "elsewhere.h5")
    assert items(site.scans, folder, {"day/a.h5": "b.h5"}) == [
        {"source_path": "/scans/day/a.h5", "destination_path": "/~/phaseline/p/s/b.h5"}
    ]


def test_a_run_names_the_files_by_the_paths_of_whoever_opens_them(site):
    scan = Submission(site.root / "scans/a.h5", "id-1", "line", (site.root / "scans/a_1.h5",))
    document = run_document(site, "run-1", scan, {"num_epochs": 3})
    copied = [item["destination_path"] for item in document["transfer"]]
    assert copied == ["/~/phaseline/scans/run-1/a.h5", "/~/phaseline/scans/run-1/a_1.h5"]
    assert document["reconstruct"]["scan_file"] == document["pairs"]["scan_file"] == "/eagle/ptycho/scans/run-1/a.h5"
    assert document["reconstruct"]["num_epochs"] == 3
    assert document["pairs"]["reconstruction"] == document["reconstruct"]["output"]
    assert document["return"][0]["destination_path"].startswith("/results/")
    assert document["results"]["reconstruction"].startswith(str(site.results.root))
    assert document["endpoints"]["reconstruct"] == "e1"
    assert document["functions"] == {"reconstruct": "f1"}


@pytest.mark.parametrize("shared", [True, False])
def test_the_incumbents_weights_are_sent_only_where_they_cannot_be_seen(site, shared):
    site = Site(**{**vars(site), "shared": shared})
    parent = Parent(4, site.root / "registry/objects/ab")
    document = round_document(site, "round-1", ["/pairs"], parent, "line", {}, Path("/inbox"))
    there = document["train"]["parent_checkpoint"]
    if shared:
        assert document["send"] == []
        assert there == str(parent.checkpoint)
    else:
        assert document["send"][0]["source_path"] == "/registry/objects/ab"
        assert there == "/eagle/ptycho/rounds/round-1/parent.pt"
    assert document["export"]["parent"] == 4
    first = round_document(site, "round-1", ["/pairs"], None, "line", {}, Path("/inbox"))
    assert (first["send"], first["train"]["parent_checkpoint"]) == ([], None)
