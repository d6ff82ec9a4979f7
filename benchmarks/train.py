"""Training beside the authors' loop in one run: `.venv/bin/python -m benchmarks.train [--only KEY...]`."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks import science, train_pairs
from benchmarks.authors_train import AuthorsLoop, mean_absolute_error
from benchmarks.engine import cores
from benchmarks.program import Measurements, program
from benchmarks.report import Figure, at_least, at_most, has_bfloat16
from iocs.config import Network
from phasing.checkpoint import bare_checkpoint, load_checkpoint, save_checkpoint
from phasing.network import PtychoNN, load_network
from phasing.network import start_weights as draw_weights
from phasing.pairs import PairSet
from phasing.rounds import EpochReport, Report
from phasing.samples import Samples
from phasing.train import TrainSettings, train

SPEED_AIM = 3.5
MAE_AIM = 1.03
FLAT_AIM = 1.5
_START_FRAMES = 64


def measurements(folder: Path, network: Network) -> Measurements:
    """Which call gives which figures, in the order of the run."""
    return {
        ("speed_ratio",): lambda: speed(folder / "speed"),
        ("mae_ratio",): lambda: accuracy(folder / "accuracy"),
        ("round_seconds",): lambda: rounds(folder / "rounds"),
        science.keys("simulated"): lambda: science.measure("simulated", science.simulated, folder / "simulated"),
        science.keys("star"): lambda: science.measure("star", science.star, folder / "star"),
    }


def speed(folder: Path, *, num_frames: int = 768, repeats: int = 3) -> list[Figure]:
    """Samples a second of both loops at 128 x 128 on all cores, epochs in turn; a loop's first epoch counts nowhere."""
    sets = [train_pairs.make(folder, 0, num_frames, 128)]
    settings = TrainSettings(num_epochs=1 + repeats, plain_loss=True, shown_frames=0, threads=cores())
    start = start_weights(folder / "start.pt", sets, settings, seed=0)
    theirs = AuthorsLoop(sets, settings, load_checkpoint(start).state, load_checkpoint(start).counts_scale)
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}

    def report(said: Report) -> None:
        """After each of our epochs one of theirs."""
        if isinstance(said, EpochReport):
            rates["ours"].append(said.samples_per_s)
            rates["theirs"].append(theirs.epoch())

    train(sets, settings, start, folder / "round", report)
    ours_hz, theirs_hz = (rates[name][1:] for name in ("ours", "theirs"))
    ratios = [ours / their for ours, their in zip(ours_hz, theirs_hz, strict=True)]
    return [
        Figure(
            "speed_ratio",
            median(ratios),
            "1",
            at_least(SPEED_AIM) if has_bfloat16() and not torch.cuda.is_available() else None,
            (min(ratios), max(ratios)),
            note="" if has_bfloat16() else "this processor has no bfloat16",
            detail={"ours_per_s": ours_hz, "theirs_per_s": theirs_hz, "cuda": torch.cuda.is_available()},
        )
    ]


def accuracy(
    folder: Path, *, num_frames: int = 600, num_epochs: int = 12, seeds: Sequence[int] = (0, 1, 2)
) -> list[Figure]:
    """Plain mean absolute error of both after the same epochs, from the same weights, on the same held-out frames."""
    sets = [train_pairs.make(folder, 0, num_frames, 64)]
    ratios, detail = [], []
    for seed in seeds:
        settings = TrainSettings(
            num_epochs=num_epochs, batch_size=16, plain_loss=True, shown_frames=0, threads=cores(), seed=seed
        )
        start = load_checkpoint(start_weights(folder / f"start-{seed}.pt", sets, settings, seed))
        scale = start.counts_scale
        torch.manual_seed(seed)
        theirs = AuthorsLoop(sets, settings, start.state, scale)
        best = min(
            (theirs.epoch(), mean_absolute_error(theirs.network.cpu(), sets, settings, scale))[1]
            for _ in range(num_epochs)
        )
        path = train(
            sets, settings, folder / f"start-{seed}.pt", folder / f"round-{seed}", lambda _: None
        ).checkpoint_path
        ours = mean_absolute_error(load_network(load_checkpoint(path).state), sets, settings, scale)
        ratios.append(ours / best)
        detail.append({"seed": seed, "ours_rad": ours, "theirs_rad": best})
    return [
        Figure("mae_ratio", mean(ratios), "1", at_most(MAE_AIM), (min(ratios), max(ratios)), detail={"runs": detail})
    ]


def rounds(folder: Path, *, num_frames: int = 300, num_epochs: int = 4) -> list[Figure]:
    """Seconds of a round by number of scans, on all of them and on a bounded set."""
    numbers = (1, 4, 16)
    sets = [train_pairs.make(folder, k, num_frames, 64) for k in range(max(numbers))]
    settings = TrainSettings(num_epochs=num_epochs, batch_size=16, threads=cores())
    first = train(sets[:1], settings, None, folder / "first", lambda _: None)
    found: dict[str, dict[int, float]] = {"bounded": {}, "all": {}}
    bounded = replace(settings, reservoir_frames=first.num_samples, judged_frames=first.num_held_out)
    for name, chosen in (("bounded", bounded), ("all", settings)):
        for number in numbers:
            began_s = time.monotonic()
            train(sets[:number], chosen, first.checkpoint_path, folder / f"{name}-{number}", lambda _: None)
            found[name][number] = time.monotonic() - began_s
    ratio = found["bounded"][numbers[-1]] / found["bounded"][numbers[0]]
    return [
        Figure(
            "round_seconds",
            ratio,
            "x from 1 scan to 16, bounded",
            at_most(FLAT_AIM),
            detail={name: {str(n): round(s, 2) for n, s in times.items()} for name, times in found.items()},
        )
    ]


def start_weights(path: Path, sets: Sequence[PairSet], settings: TrainSettings, seed: int) -> Path:
    """First weights as a parent's checkpoint: both loops start from these.

    They are phasing's: from PyTorch's own neither of the two learns anything in a dozen epochs, and any ratio is 1.
    """
    torch.manual_seed(seed)
    samples = Samples(sets, settings)
    scale = samples.counts_scale()
    network = PtychoNN()
    draw_weights(network, torch.from_numpy(samples.gather(samples.training[:_START_FRAMES]).counts) * scale)
    checkpoint = bare_checkpoint(
        network.state_dict(),
        sets[0].geometry,
        counts_scale=scale,
        pixel_size_m=sets[0].pixel_size_m,
        probe_intensity=samples.probe_intensity(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint, path)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write down a whole run; 1 when a figure could not be measured, 0 even if aims are missed."""
    return program(arguments, "train", measurements)


if __name__ == "__main__":
    sys.exit(main())
