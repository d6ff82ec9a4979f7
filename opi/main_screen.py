"""The overview: the four stages of the loop, what they see and learn, the models, and how far to trust them."""

from collections.abc import Sequence
from dataclasses import dataclass

from opi.address import address, percent
from opi.bob import Align, Box, Color, Font, Screen
from opi.widgets import button, choice, curves, entry, image, label, panel, progress, read, switch
from pvdb import detector as det
from pvdb import edge, health
from pvdb import workflow as flow
from pvdb.model import Pv

WIDTH_PX, HEIGHT_PX = 1920, 1080
_MARGIN_PX, _GUTTER_PX, _PAD_PX = 20, 28, 14
_CARD_PX = (WIDTH_PX - 2 * _MARGIN_PX - 3 * _GUTTER_PX) // 4
_INNER_PX = _CARD_PX - 2 * _PAD_PX
_HEADER_PX, _STAGES_Y, _STAGES_PX = 50, 62, 284
_IMAGES_Y, _IMAGES_PX, _LOWER_Y, _LOWER_PX = 378, 396, 786, 282
_ROW_PX, _PITCH_PX, _LABEL_PX, _GAP_PX = 23, 27, 90, 9

Cell = tuple[str, Pv]


@dataclass(frozen=True)
class _Card:
    """A panel with a title, filled from the top."""

    screen: Screen
    box: Box

    @property
    def x_px(self) -> int:
        return self.box.x_px + _PAD_PX

    @property
    def inner_px(self) -> int:
        return self.box.width_px - 2 * _PAD_PX

    def row(self, y_px: int, *cells: Cell, write: Sequence[Pv] = (), label_px: int = _LABEL_PX) -> None:
        """Labels and values side by side; those in `write` can be set."""
        width = (self.inner_px - _GAP_PX * (len(cells) - 1)) // len(cells)
        for n, (text, pv) in enumerate(cells):
            x, y = self.x_px + n * (width + _GAP_PX), self.box.y_px + y_px
            label(self.screen, text, Box(x, y, label_px, _ROW_PX))
            place = Box(x + label_px, y, width - label_px, _ROW_PX)
            if pv not in write:
                read(self.screen, pv, place)
            elif pv.choices:
                choice(self.screen, pv, place)
            else:
                entry(self.screen, pv, place)

    def rows(self, y_px: int, rows: Sequence[Sequence[Cell]], *, write: Sequence[Pv] = ()) -> None:
        """Several rows below each other."""
        for n, cells in enumerate(rows):
            self.row(y_px + n * _PITCH_PX, *cells, write=write)

    def headline(self, y_px: int, pv: Pv, caption: str) -> None:
        """The number that matters."""
        read(self.screen, pv, Box(self.x_px, self.box.y_px + y_px, 190, 34), font=Font.HEADER_1, align=Align.RIGHT)
        place = Box(self.x_px + 200, self.box.y_px + y_px, self.inner_px - 200, 34)
        label(self.screen, caption, place, font=Font.COMMENT)

    def slots(self, num: int) -> list[Box]:
        """Places for `num` buttons at the bottom."""
        width = (self.inner_px - _GAP_PX * (num - 1)) // num
        y = self.box.y_px + self.box.height_px - 42
        return [Box(self.x_px + n * (width + _GAP_PX), y, width, 32) for n in range(num)]


def build() -> Screen:
    """The screen `main.bob`, for the macro P and, where the detector is not ours, CAM and HDF."""
    screen = Screen("phaseline $(P)", width_px=WIDTH_PX, height_px=HEIGHT_PX)
    _header(screen)
    for stage in (_detector, _reconstruction, _training, _edge):
        stage(screen)
    _arrows(screen)
    _images(screen)
    _messages(screen)
    _models(screen)
    _trust(screen)
    return screen


def _card(screen: Screen, title: str, column: int, y_px: int, height_px: int, *, columns: int = 1,
          title_px: int = _INNER_PX) -> _Card:  # fmt: skip
    width = columns * _CARD_PX + (columns - 1) * _GUTTER_PX
    box = Box(_MARGIN_PX + column * (_CARD_PX + _GUTTER_PX), y_px, width, height_px)
    panel(screen, title, box)
    label(screen, title, Box(box.x_px + _PAD_PX, y_px + 8, title_px, 26), font=Font.HEADER_2)
    return _Card(screen, box)


def _header(screen: Screen) -> None:
    panel(screen, "Header", Box(0, 0, WIDTH_PX, _HEADER_PX), color=Color.HEADER, corner_px=0)
    white = Color.HEADER_TEXT
    label(screen, "phaseline", Box(34, 10, 130, 30), font=Font.HEADER_1, color=white)
    label(screen, "live ptychography", Box(172, 13, 150, 26), font=Font.COMMENT, color=white)
    label(screen, "$(P)", Box(330, 13, 100, 26), font=Font.BOLD, color=white)
    for text, pv, x, width in (
        ("Proposal", flow.PROPOSAL, 440, 130), ("Sample", flow.SAMPLE, 650, 130), ("Lineage", flow.LINEAGE, 860, 334),
    ):  # fmt: skip
        label(screen, text, Box(x, 13, 68, 24), color=white, align=Align.RIGHT)
        read(screen, pv, Box(x + 74, 13, width, 24))
    for n, (text, area) in enumerate((("Detector up", "Det"), ("Workflow up", "Workflow"), ("Edge up", "Edge"))):
        x = 1284 + n * 206
        label(screen, text, Box(x, 13, 96, 24), color=white, align=Align.RIGHT)
        read(screen, health.named(area)[health.UPTIME], Box(x + 102, 13, 98, 24))


def _stage(screen: Screen, title: str, column: int, state: Pv, done: tuple[str, str],
           headline: tuple[Pv, str]) -> _Card:  # fmt: skip
    """What all four stages have: name, state, progress, and the number that matters."""
    card = _card(screen, title, column, _STAGES_Y, _STAGES_PX, title_px=300)
    read(screen, state, Box(card.x_px + 305, _STAGES_Y + 9, card.inner_px - 305, 25), font=Font.BOLD,
         align=Align.CENTER)  # fmt: skip
    progress(screen, *done, Box(card.x_px, _STAGES_Y + 41, card.inner_px, 14))
    card.headline(62, *headline)
    return card


def _detector(screen: Screen) -> None:
    card = _stage(screen, "Detector", 0, det.DETECTOR_STATE,
                  ("Frames taken of this acquisition", percent(det.NUM_IMAGES_COUNTER, det.NUM_IMAGES.readback)),
                  (det.NUM_IMAGES_COUNTER, "frames taken"))  # fmt: skip
    card.rows(103, (
        (("Frames", det.NUM_IMAGES), ("Period", det.ACQUIRE_PERIOD)),
        (("Rate", det.ARRAY_RATE), ("Time left", det.TIME_REMAINING)),
        (("Written", det.NUM_CAPTURED), ("Last write", det.WRITE_STATUS)),
        (("File name", det.FILE_NAME),),
        (("Last file", det.FULL_FILE_NAME),),
    ), write=(det.NUM_IMAGES, det.ACQUIRE_PERIOD, det.FILE_NAME))  # fmt: skip
    capture, acquire, stop = card.slots(3)
    button(screen, det.CAPTURE, "Capture", capture)
    button(screen, det.ACQUIRE, "Acquire", acquire)
    button(screen, det.ACQUIRE, "Stop", stop, value=0)


def _reconstruction(screen: Screen) -> None:
    card = _stage(screen, "Transfer and reconstruction", 1, flow.FLOW_STATE,
                  (flow.FLOW_PROGRESS.description, address(flow.FLOW_PROGRESS)),
                  (flow.RECON_ERROR, "error of the reconstruction"))  # fmt: skip
    card.rows(103, (
        (("Transfer", flow.TRANSFER_STATE), ("Speed", flow.TRANSFER_RATE)),
        (("Retrieval", flow.RECON_STATE), ("Epoch", flow.RECON_EPOCH)),
        (("Step", flow.FLOW_STEP), ("Runs done", flow.SUCCEEDED_RUNS)),
    ))  # fmt: skip
    runs = (("Failed", flow.FAILED_RUNS), ("Active", flow.ACTIVE_RUNS), ("Queued", flow.QUEUED_RUNS))
    card.row(103 + 3 * _PITCH_PX, *runs, label_px=54)
    card.row(103 + 4 * _PITCH_PX, ("Scan file", flow.FILE), write=(flow.FILE,))
    submit, run, cancel, retry, hold = card.slots(5)
    button(screen, flow.SUBMIT, "Submit", submit)
    button(screen, flow.RUN, "Run", run)
    button(screen, flow.CANCEL, "Cancel", cancel, confirm="Cancel all runs that are not finished?")
    button(screen, flow.RETRY, "Retry", retry)
    switch(screen, flow.HOLD, "Hold", hold)


def _training(screen: Screen) -> None:
    card = _stage(screen, "Training", 2, flow.TRAIN_STATE,
                  ("Epochs done of this round", percent(flow.EPOCH, flow.EPOCHS.readback)),
                  (flow.VAL_LOSS, "loss on held-out frames"))  # fmt: skip
    card.rows(103, (
        (("Epoch", flow.EPOCH), ("Of", flow.EPOCHS)),
        (("Loss", flow.LOSS), ("Best", flow.BEST_VAL_LOSS)),
        (("Scans", flow.NUM_SCANS), ("Frames", flow.NUM_SAMPLES)),
        (("Speed", flow.SAMPLE_RATE), ("Time left", flow.TIME_LEFT)),
        (("Learn rate", flow.LEARNING_RATE), ("Standby", flow.STANDBY.readback)),
    ), write=(flow.EPOCHS,))  # fmt: skip
    start, abort, standby = card.slots(3)
    button(screen, flow.START, "Start", start)
    button(screen, flow.ABORT, "Abort", abort)
    switch(screen, flow.STANDBY, "Standby", standby)


def _edge(screen: Screen) -> None:
    card = _stage(screen, "Edge", 3, edge.STATE,
                  ("Predictions published of frames received", percent(edge.FRAMES_OUT, edge.FRAMES_IN)),
                  (edge.RATE, "predictions published"))  # fmt: skip
    card.rows(103, (
        (("Model", edge.MODEL), ("Engine", edge.ENGINE)),
        (("Frames in", edge.FRAMES_IN), ("Frames out", edge.FRAMES_OUT)),
        (("Latency", edge.LATENCY_MEDIAN), ("99 % below", edge.LATENCY_99)),
        (("Queue used", edge.QUEUE_USED), ("Batch", edge.BATCH_SIZE)),
        (("Scan", edge.SCAN_ID),),
    ), write=(edge.BATCH_SIZE,))  # fmt: skip
    enable, reset = card.slots(2)
    switch(screen, edge.ENABLE, "Enable", enable)
    button(screen, edge.RESET, "Reset", reset)


def _line(screen: Screen, name: str, box: Box, points: Sequence[tuple[float, float]], *, arrow: bool) -> None:
    screen.add("polyline", name, box, {
        "line_width": 2, "line_color": Color.HEADER, "arrows": 2 if arrow else 0, "arrow_length": 12,
        "points": points,
    })  # fmt: skip


def _arrows(screen: Screen) -> None:
    """From stage to stage, and round below them the frames that go straight to the edge."""
    for n in range(3):
        x = _MARGIN_PX + (n + 1) * _CARD_PX + n * _GUTTER_PX
        box = Box(x + 3, _STAGES_Y + _STAGES_PX // 2 - 8, _GUTTER_PX - 6, 16)
        _line(screen, f"Arrow {n + 1}", box, ((0, 8), (_GUTTER_PX - 6, 8)), arrow=True)
    top, left, middle, right = _STAGES_Y + _STAGES_PX + 3, 244, WIDTH_PX // 2, WIDTH_PX - 244
    _line(screen, "Frames from the detector", Box(left, top, middle - 130 - left, 16),
          ((1, 0), (1, 15), (middle - 130 - left, 15)), arrow=False)  # fmt: skip
    label(screen, "every frame, as it is taken", Box(middle - 120, top + 1, 240, 26), font=Font.COMMENT,
          align=Align.CENTER)  # fmt: skip
    _line(screen, "Frames to the edge", Box(middle + 130, top, right - middle - 130, 16),
          ((0, 15), (right - middle - 131, 15), (right - middle - 131, 0)), arrow=True)  # fmt: skip


def _images(screen: Screen) -> None:
    """Stitched map beside the reconstruction of the same scan, then the curves, then what the edge sees now."""
    titles = ("Stitched phase map", "Latest reconstruction", "Loss by epoch", "Phase of the latest frame")
    for column, (title, pv) in enumerate(zip(titles, (edge.STITCHED, flow.RECON_IMAGE, None, edge.PHASE), strict=True)):
        unit = f" ({pv.unit})" if pv else ""
        card = _card(screen, f"{title}{unit}", column, _IMAGES_Y, _IMAGES_PX)
        place = Box(card.x_px, _IMAGES_Y + 40, card.inner_px, _IMAGES_PX - 40 - _PAD_PX)
        if pv:
            image(screen, pv, place)
        else:
            traces = (("training", flow.LOSS_HISTORY, Color.TEXT), ("held out", flow.VAL_LOSS_HISTORY, Color.ATTENTION))
            curves(screen, title, traces, place)


def _messages(screen: Screen) -> None:
    card = _card(screen, "Messages", 0, _LOWER_Y, _LOWER_PX, columns=2)
    said = (("Detector", det.STATUS_MESSAGE), ("Scan", flow.SCAN_MESSAGE), ("Workflow", flow.FLOW_MESSAGE),
            ("Transfer", flow.TRANSFER_MESSAGE), ("Retrieval", flow.RECON_MESSAGE), ("Training", flow.TRAIN_MESSAGE),
            ("Model", flow.MODEL_MESSAGE), ("Edge", edge.MESSAGE))  # fmt: skip
    for n, cell in enumerate(said):
        card.row(42 + n * 29, cell)


def _models(screen: Screen) -> None:
    card = _card(screen, "Models", 2, _LOWER_Y, _LOWER_PX)
    card.rows(42, (
        (("Active", flow.ACTIVE_MODEL), ("Candidate", flow.CANDIDATE)),
        (("Its loss", flow.ACTIVE_VAL_LOSS), ("Its loss", flow.CANDIDATE_VAL_LOSS)),
        (("Gate", flow.GATE), ("Select", flow.SELECT)),
        (("Verdict", flow.VERDICT),),
        (("Announced", flow.ANNOUNCED),),
        (("At the edge", edge.MODEL_STATE),),
        (("Refused", edge.REFUSED),),
    ), write=(flow.GATE, flow.SELECT))  # fmt: skip
    accept, rollback = card.slots(2)
    button(screen, flow.ACCEPT, "Accept", accept)
    button(screen, flow.ROLLBACK, "Rollback", rollback, confirm="Put the active model's parent live?")


def _trust(screen: Screen) -> None:
    card = _card(screen, "Trust and losses", 3, _LOWER_Y, _LOWER_PX)
    card.headline(42, edge.CONSISTENCY_RATIO, "overlap spread / map spread")
    card.rows(84, (
        (("Spread", edge.CONSISTENCY), ("Unplaced", edge.FRAMES_UNPLACED)),
        (("Missed", edge.FRAMES_MISSED), ("Dropped", edge.FRAMES_DROPPED)),
        (("Rejected", edge.FRAMES_REJECTED), ("Empty", edge.FRAMES_EMPTY)),
        (("No model", edge.FRAMES_NO_MODEL), ("File losses", det.FILE_DROPPED)),
        (("Copied", flow.FILES_DONE), ("Free disk", flow.DISK_FREE)),
        (("Latency of", edge.LATENCY_FROM),),
    ))  # fmt: skip
    meaning = "0: overlaps agree, 1: they differ as the map does"
    label(screen, meaning, Box(card.x_px, _LOWER_Y + 250, card.inner_px, 24), font=Font.COMMENT)
