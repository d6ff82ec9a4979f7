"""The detector IOC as a beamline uses it: puts with completion, the stream and the scan file, replay, refusals."""

from pathlib import Path

import clients
import numpy as np
import pytest

from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanfile import ScanWriter, read_scan

CAM, FILE, SIM, IMAGE = (f"X:Det:{area}" for area in ("cam1:", "HDF1:", "Sim:", "Pva1:Image"))
LAST = 2**31 - 1
SCAN_ID = "6f0e6f6c-95c8-4d4a-9b54-0d6f3d3a2a10"


def start_detector(place):
    """The detector IOC from the command line, saving below the test's folder."""
    config = place.folder / "phaseline.toml"
    geometry = "[geometry]\ndetector_shape_px = [16, 24]\ncrop_px = 16\n"
    config.write_text(f'prefix = "X:"\nroot = "{place.folder}/data"\n{place.ports.toml()}{geometry}')
    return place.start("-m", "iocs.cli", "ioc", "detector", "--config", str(config))


@pytest.fixture(scope="module")
def beamline(place):
    start_detector(place)
    place.scans = place.folder / "data" / "scans"
    return place


class Detector:
    """The detector's PVs through p4p, with what was put undone by nobody: each test puts what it needs."""

    def __init__(self, context):
        self.context = context

    def put(self, **values):
        """Put setpoints: `cam_NumImages=3`."""
        areas = {"cam": CAM, "file": FILE, "sim": SIM}
        for name, value in values.items():
            area, _, last = name.partition("_")
            self.context.put(areas[area] + last, value, timeout=clients.DEADLINE_S)

    def get(self, name):
        value = self.context.get(name, timeout=clients.DEADLINE_S).raw.value
        return value if isinstance(value, int | float | str) else value.index

    def watch(self, name):
        """A monitor's values as they come."""
        seen = clients.Seen()

        def add(value):
            if not isinstance(value, Exception):
                value = value.raw.value
                seen.add(value if isinstance(value, int | float | str) else value.index)

        seen.subscription = clients.monitor(self.context, name, add)
        return seen

    def capture(self):
        """Begin to capture; a queue that gives the put's result."""
        busy = self.watch(f"{FILE}Capture_RBV")
        done = clients.background(clients.pva_put, self.context, f"{FILE}Capture", 1)
        busy.until(lambda value: value == 1)
        return done

    def acquire(self):
        """Begin to acquire; a queue that gives the put's result, when the first frame is taken."""
        busy = self.watch(f"{CAM}DetectorState_RBV")
        taken = self.watch(f"{CAM}NumImagesCounter_RBV")
        done = clients.background(clients.pva_put, self.context, f"{CAM}Acquire", 1)
        busy.until(lambda state: state == 1)
        taken.until(lambda number: number > 0)
        return done


def with_detector(work):
    with clients.pva() as context:
        return work(Detector(context))


def acquire_and_save(name, num_frames, capture_before):
    """One acquisition into a file: what came over the stream, what the file plugin showed, the seconds it took."""
    from iocs.stream import StreamReader, decode

    def work(detector):
        detector.put(
            cam_NumImages=num_frames, cam_AcquirePeriod=0.005, cam_AcquireTime=0.001, cam_ImageMode="Multiple",
            sim_Source="Simulated", sim_Photons=1e4, sim_ScanId="", file_FileName=name, file_NumCapture=num_frames,
        )  # fmt: skip
        reader = StreamReader(IMAGE, queue_size=1000)
        reader.next(clients.DEADLINE_S)  # the empty or the last one: connected
        names = detector.watch(f"{FILE}FullFileName_RBV")
        saved = detector.capture()
        names.until(lambda text: text == "")  # Capture_RBV is posted a little before
        [(result, seconds)] = [clients.background(clients.pva_put, detector.context, f"{CAM}Acquire", 1).get()]
        idle = detector.get(f"{CAM}Acquire_RBV"), detector.get(f"{CAM}NumImagesCounter_RBV")
        frames = [decode(reader.next(clients.DEADLINE_S)) for _ in range(num_frames)]
        reader.close()
        capture = saved.get(timeout=clients.DEADLINE_S)[0]
        names.until(lambda text: f"/{name}_" in text)
        return {
            "acquire": [result, *idle],
            "seconds": seconds,
            "capture": capture,
            "file": detector.get(f"{FILE}FullFileName_RBV"),
            "captured": detector.get(f"{FILE}NumCaptured_RBV"),
            "status": [detector.get(f"{FILE}{last}") for last in ("WriteStatus", "WriteFile_RBV", "Capture_RBV")],
            "used": detector.get(f"{SIM}ScanIdUsed"),
            "ids": [frame.unique_id for frame in frames],
            "times_s": [frame.time_ns / 1e9 for frame in frames],
            "scan_ids": sorted({frame.attributes["ScanId"] for frame in frames}),
            "positions_um": [[frame.attributes["PositionY"], frame.attributes["PositionX"]] for frame in frames],
            "shape": list(frames[0].array.shape),
            "sums": [int(frame.array.sum()) for frame in frames],
            "dtype": detector.get(f"{CAM}DataType_RBV"),
        }

    return with_detector(work)


def test_stream_and_file_hold_the_same_frames(beamline):
    seen = beamline.call(acquire_and_save, "same", 20, True)
    assert seen["acquire"] == ["ok", 0, 20] and seen["capture"] == "ok"
    assert seen["seconds"] >= 19 * 0.005
    assert seen["captured"] == 20 and seen["status"] == [0, 0, 0]
    scan = read_scan(seen["file"])
    assert Path(seen["file"]).parent == beamline.scans
    assert scan.num_frames == 20 and [scan.scan_id] == seen["scan_ids"] == [seen["used"]]
    np.testing.assert_array_equal(scan.unique_id, seen["ids"])
    assert np.diff(seen["ids"]).tolist() == [1] * 19
    np.testing.assert_allclose(scan.time_s, seen["times_s"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(scan.position_m, np.array(seen["positions_um"]) * 1e-6, atol=1e-12)
    assert len({tuple(position) for position in seen["positions_um"]}) == 20
    assert seen["shape"] == [16, 24] and scan.counts().dtype == np.uint16 and seen["dtype"] == 3
    assert scan.counts().sum(axis=(1, 2)).tolist() == seen["sums"]


def acquire_over_channel_access():
    def work(detector):
        detector.put(cam_NumImages=3, cam_AcquirePeriod=0.001, cam_AcquireTime=0.001, sim_Source="Simulated")
        ids = []
        for _ in range(2):
            ids.append([clients.ca_get(f"{CAM}ArrayCounter_RBV")])
            assert clients.ca_put(f"{CAM}Acquire", 1) == "ok"
            ids[-1] += [clients.ca_get(f"{CAM}ArrayCounter_RBV"), clients.ca_get(f"{CAM}DetectorState_RBV")]
        detector.put(cam_ImageMode="Single")
        assert clients.ca_put(f"{CAM}Acquire", 1) == "ok"
        single = detector.get(f"{CAM}NumImagesCounter_RBV")
        detector.put(cam_ImageMode="Multiple")
        return ids, single, clients.ca_get(f"{CAM}StatusMessage_RBV"), clients.ca_get(f"{CAM}DetectorState_RBV.SEVR")

    return with_detector(work)


def test_ids_count_on_from_acquisition_to_acquisition(beamline):
    (first, second), single, message, severity = beamline.call(acquire_over_channel_access)
    assert first[1] == first[0] + 3 and second == [first[1], first[1] + 3, "Idle"]
    assert single == 1 and message == "acquisition done" and severity == "NO_ALARM"


def stop_acquiring():
    def work(detector):
        detector.put(cam_ImageMode="Continuous", cam_AcquirePeriod=0.005, cam_AcquireTime=0.001, sim_Source="Simulated",
                     file_FileName="stopped", file_NumCapture=0)  # fmt: skip
        saved, acquired = detector.capture(), detector.acquire()
        second = clients.pva_put(detector.context, f"{CAM}Acquire", 1)
        second_capture = clients.ca_put(f"{FILE}Capture", 1)
        stopped = clients.ca_put(f"{CAM}Acquire", 0)
        state = clients.ca_get(f"{CAM}DetectorState_RBV"), clients.ca_get(f"{CAM}Acquire_RBV")
        taken = detector.get(f"{CAM}NumImagesCounter_RBV")
        still = saved.empty(), detector.get(f"{FILE}Capture_RBV")
        closed = clients.pva_put(detector.context, f"{FILE}Capture", 0)
        detector.put(cam_ImageMode="Multiple")
        return {
            "ends": [acquired.get(timeout=clients.DEADLINE_S)[0], saved.get(timeout=clients.DEADLINE_S)[0]],
            "second": [second, "already running" in second_capture],
            "stopped": [stopped, *state],
            "capture": [*still, closed, detector.get(f"{FILE}Capture_RBV"), detector.get(f"{FILE}WriteStatus")],
            "taken": taken,
            "captured": detector.get(f"{FILE}NumCaptured_RBV"),
            "file": detector.get(f"{FILE}FullFileName_RBV"),
        }

    return with_detector(work)


def test_zero_stops_acquisition_and_closes_the_file(beamline):
    seen = beamline.call(stop_acquiring)
    assert seen["second"] == ["already running", True]
    assert seen["ends"] == ["ok", "ok"]
    assert seen["stopped"] == ["ok", "Aborted", "Done"]
    assert seen["capture"] == [True, 1, "ok", 0, 0]
    assert read_scan(seen["file"]).num_frames == seen["captured"] == seen["taken"] > 0


def refuse_files(folder):
    def work(detector):
        def tried(**values):
            area = {name: detector.get(f"{FILE}{name.removeprefix('file_')}") for name in values}
            try:
                detector.put(**values)
            except Exception as error:  # noqa: BLE001 -- whatever the client raises is what the operator reads
                return [str(error), clients.ca_get(f"{FILE}WriteMessage")]
            result = clients.pva_put(detector.context, f"{FILE}Capture", 1)
            shown = [detector.get(f"{FILE}{last}") for last in ("WriteStatus", "Capture_RBV")]
            message = clients.ca_get(f"{FILE}WriteMessage")
            detector.put(**area)
            return [result, message, *shown]

        detector.put(file_FileName="there", file_FileNumber=1)
        return [
            tried(file_FileName="there"),
            tried(file_FilePath=f"{folder}/nowhere"),
            tried(file_FilePath="data/scans"),
            tried(file_FileTemplate="%s%s.h5"),
            tried(file_FileTemplate="%d%d%d"),
            tried(file_FileTemplate="no place for a name"),
            tried(file_FilePath="/" + "p" * 254),
            tried(file_FileName="n" * 250),
            tried(file_FileTemplate="%.0s%s%d"),
            tried(file_FileTemplate="%s%s%c", file_FileNumber=LAST),
            clients.ca_put(f"{FILE}Capture", 1),
            clients.ca_get(f"{FILE}Capture.SEVR"),
            clients.ca_get(f"{FILE}WriteStatus.SEVR"),
        ]

    return with_detector(work)


def test_files_that_cannot_be_written_are_refused(beamline):
    (beamline.scans / "there_0001.h5").write_text("a file that somebody wants to keep")
    exists, nowhere, relative, *others, by_ca, severity, status = beamline.call(refuse_files, str(beamline.folder))
    *templates, long_path, long_name, elsewhere, no_character = others
    assert "there_0001.h5 exists" in exists[0] and exists[0] in exists[1] and exists[2:] == [1, 0]
    assert "nowhere is not a folder" in nowhere[0]
    assert "not an absolute folder" in relative[0] and relative[0] in relative[1]
    for template in templates:
        assert "does not take path, name and number" in template[0], template
    reason = "over 255 characters with the slash at its end"
    assert reason in long_path[0] and reason in long_path[1]
    assert "that cannot be a file" in long_name[0] and "too long" in long_name[0] and long_name[2:] == [1, 0]
    assert "there1 is not absolute" in elsewhere[0] and elsewhere[2:] == [1, 0]
    assert "that cannot be a file" in no_character[0] and no_character[2:] == [1, 0]
    assert not (beamline.folder / "there1").exists()
    assert by_ca == "ok" and severity == status == "MAJOR"  # an action that fails completes on Channel Access
    assert (beamline.scans / "there_0001.h5").read_text() == "a file that somebody wants to keep"


def write_scan(path, num_frames=10, *, first_id=500, dtype=np.uint32):
    geometry = Geometry(
        energy_ev=8000.0, distance_m=2.0, pixel_size_m=75e-6, detector_shape_px=(12, 12), crop_px=12, transpose=True
    )
    counts = np.random.default_rng(0).integers(0, 60_000, (num_frames, 12, 12)).astype(dtype)
    with ScanWriter(path, SCAN_ID, geometry, dtype=counts.dtype) as writer:
        for index in range(num_frames):
            x_m = 1e-6 * index
            writer.append(Frame(first_id + 3 * index, 1.8e9 + index, SCAN_ID, counts[index], (2e-6, x_m)))
    return path


def replay(path, parts):
    def work(detector):
        detector.put(sim_Source="Replay", sim_ReplayFile=path, cam_NumImages=1000, cam_ImageMode="Multiple")
        detector.put(cam_AcquirePeriod=0.001, cam_AcquireTime=0.001, file_FileName="replayed", file_NumCapture=0)
        files = []
        for part in parts:
            detector.put(sim_ReplayPart=part)
            saved = detector.capture()
            assert clients.pva_put(detector.context, f"{CAM}Acquire", 1) == "ok"
            assert clients.pva_put(detector.context, f"{FILE}Capture", 0) == "ok"
            assert saved.get(timeout=clients.DEADLINE_S)[0] == "ok"
            sizes = [detector.get(f"{CAM}ArraySize{axis}_RBV") for axis in "YX"]
            files.append([detector.get(f"{FILE}FullFileName_RBV"), sizes, detector.get(f"{CAM}DataType_RBV")])
        detector.put(sim_Source="Simulated", sim_ReplayPart="Whole")
        return files

    return with_detector(work)


def test_a_replay_keeps_scan_and_frame_ids(beamline):
    source = read_scan(write_scan(beamline.folder / "source.h5"))
    parts = {"Left half": slice(0, 5), "Right half": slice(5, 10), "Whole": slice(0, 10)}
    files = beamline.call(replay, str(source.path), list(parts))
    for part, (file, sizes, dtype) in zip(parts.values(), files, strict=True):
        copy = read_scan(file)
        assert copy.scan_id == SCAN_ID and sizes == [12, 12] and dtype == 5
        assert copy.geometry.differences(source.geometry) == ()
        np.testing.assert_array_equal(copy.unique_id, source.unique_id[part])
        np.testing.assert_allclose(copy.position_m, source.position_m[part])
        np.testing.assert_array_equal(copy.counts(), source.counts()[part])


def replay_spoilt(paths):
    def work(detector):
        detector.put(sim_Source="Replay", cam_NumImages=5)
        results = []
        for path in paths:
            detector.put(sim_ReplayFile=path)
            results.append([
                clients.pva_put(detector.context, f"{CAM}Acquire", 1),
                clients.ca_put(f"{CAM}Acquire", 1),
                clients.ca_get(f"{CAM}StatusMessage_RBV"),
                clients.ca_get(f"{CAM}DetectorState_RBV"),
                clients.ca_get(f"{CAM}Acquire.SEVR"),
            ])  # fmt: skip
        detector.put(sim_Source="Simulated", cam_NumImages=2)
        return results, clients.ca_put(f"{CAM}Acquire", 1), clients.ca_get(f"{CAM}DetectorState_RBV")

    return with_detector(work)


def test_a_scan_file_that_cannot_be_replayed_is_told(beamline):
    whole = write_scan(beamline.folder / "whole.h5").read_bytes()
    truncated = beamline.folder / "truncated.h5"
    truncated.write_bytes(whole[: len(whole) // 2])
    missing = beamline.folder / "missing.h5"
    results, after, state = beamline.call(replay_spoilt, [str(missing), str(truncated)])
    for path, (by_pva, by_ca, message, shown, severity) in zip((missing, truncated), results, strict=True):
        assert path.name in by_pva and "\n" not in by_pva
        assert by_ca == "ok" and severity == "MAJOR" and shown == "Error"
        assert path.name in message
    assert (after, state) == ("ok", "Idle")


def capture_two_scans():
    def work(detector):
        detector.put(cam_ImageMode="Multiple", cam_NumImages=2, cam_AcquirePeriod=0.001, sim_Source="Simulated")
        detector.put(sim_ScanId="", file_FileName="two", file_FileNumber=1, file_NumCapture=0)
        names = detector.watch(f"{FILE}FullFileName_RBV")
        saved = detector.capture()
        for _ in range(2):  # the second scan does not belong in the file of the first
            assert clients.pva_put(detector.context, f"{CAM}Acquire", 1) == "ok"
        result = saved.get(timeout=clients.DEADLINE_S)[0]
        return result, names.until(lambda text: text.endswith("two_0001.h5")), detector.get(f"{FILE}FileNumber_RBV")

    return with_detector(work)


def test_the_number_of_a_file_that_was_saved_after_an_error_is_used_up(beamline):
    result, file, number = beamline.call(capture_two_scans)
    assert "does not belong" in result and read_scan(file).num_frames == 2 and number == 2


def acquire_at_the_limits(half, large):
    def work(detector):
        detector.put(cam_ImageMode="Multiple", cam_NumImages=5, cam_AcquirePeriod=0.001, cam_AcquireTime=0.001)

        def acquired(**values):
            detector.put(**values)
            result = clients.pva_put(detector.context, f"{CAM}Acquire", 1)
            return [result, detector.get(f"{CAM}ArrayCounter_RBV"), clients.ca_get(f"{CAM}DetectorState_RBV")]

        results = [
            acquired(sim_Source="Simulated", cam_ArrayCounter=LAST - 2),
            acquired(),
            acquired(sim_Source="Replay", sim_ReplayFile=large),
            acquired(sim_ReplayFile=half),
            acquired(sim_Source="Simulated", cam_ArrayCounter=0),
        ]
        detector.put(file_FileName="numbered", file_FileNumber=LAST, file_NumCapture=5)
        saved = detector.capture()
        assert clients.pva_put(detector.context, f"{CAM}Acquire", 1) == "ok"
        captured = saved.get(timeout=clients.DEADLINE_S)[0], detector.get(f"{FILE}FileNumber_RBV")
        again = clients.pva_put(detector.context, f"{FILE}Capture", 1)
        detector.put(file_FileNumber=1)
        return [*results, captured, again]

    return with_detector(work)


def test_numbers_stop_at_their_limits(beamline):
    half = write_scan(beamline.folder / "half.h5", dtype=np.float16)
    large = write_scan(beamline.folder / "large.h5", first_id=LAST + 1)
    last, beyond, ids, pixels, after, captured, again = beamline.call(acquire_at_the_limits, str(half), str(large))
    for acquired in (last, beyond, ids):
        assert f"frame id {LAST + 1} does not fit into 32 bits" in acquired[0] and acquired[1:] == [LAST, "Error"]
    assert "Float16 cannot be streamed" in pixels[0] and pixels[2] == "Error"
    assert after == ["ok", 5, "Idle"]
    assert captured == ["ok", LAST] and f"numbered_{LAST}.h5 exists" in again


def begin_endless_capture():
    def work(detector):
        detector.put(cam_ImageMode="Continuous", cam_AcquirePeriod=0.005, file_NumCapture=0, file_FileName="last")
        detector.capture()
        detector.acquire()
        captured = detector.watch(f"{FILE}NumCaptured_RBV")
        captured.until(lambda number: number > 0)
        return detector.get(f"{FILE}FullFileName_RBV")

    return with_detector(work)


def test_an_ioc_that_is_stopped_closes_its_file(fresh_place):
    ioc = start_detector(fresh_place)
    file = fresh_place.call(begin_endless_capture)
    ioc.stop()  # which asserts the exit status, and has a deadline: how long the disk takes is not the IOC's doing
    assert read_scan(file).num_frames > 0
    assert list(Path(file).parent.glob("*.part")) == []
