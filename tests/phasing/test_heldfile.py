"""The file that holds what the disk refuses."""

import io
import os
import random
import resource
from pathlib import Path

import pytest

from phasing.heldfile import HeldFile


@pytest.mark.parametrize("seed", range(20))
def test_it_reads_what_was_written_and_the_disk_gets_it_in_the_end(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    held, plain = HeldFile(tmp_path / "file"), io.BytesIO()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    try:
        for _ in range(60):
            resource.setrlimit(resource.RLIMIT_FSIZE, (chance.choice((0, 2000, 10_000)), limits[1]))
            offset, length = chance.randrange(4000), chance.randrange(2000)
            data = chance.randbytes(length)
            for file in (held, plain):
                assert file.seek(offset) == file.tell() == offset
                assert file.write(data) == length
            offset, buffers = chance.randrange(6000), (bytearray(500), bytearray(500))
            lengths = [(file.seek(offset), file.readinto(b)) for file, b in zip((held, plain), buffers, strict=True)]
            assert lengths[0] == lengths[1]
            assert buffers[0] == buffers[1]
            if chance.random() < 0.2:
                size = min(held.seek(0, 2), chance.randrange(6000))
                for file in (held, plain):
                    assert file.truncate(size) == size
            try:
                held.settle()
            except OSError:
                refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    held.settle()
    held.close()
    held.close()
    assert 0 < refused < 60
    assert (tmp_path / "file").read_bytes() == plain.getvalue()


def test_after_closing_nothing_reaches_a_file_that_got_its_number(tmp_path: Path) -> None:
    held = HeldFile(tmp_path / "file")
    number = held._descriptor
    with (tmp_path / "other").open("w+b") as other:
        held.close()
        os.dup2(other.fileno(), number)
        try:
            held.write(b"late")
        finally:
            os.close(number)
    assert (tmp_path / "other").read_bytes() == b""


def test_it_says_at_once_when_it_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        HeldFile(tmp_path / "nowhere" / "file")
