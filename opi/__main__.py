"""`python -m opi` writes the screens; with a folder as its argument, there instead of beside this package."""

import sys
from pathlib import Path

from opi import main_screen

FOLDER = Path(__file__).parent
SCREENS = {"main.bob": main_screen.build}


def write(folder: Path) -> list[Path]:
    """Write every screen into `folder` and return the files."""
    paths = []
    for name, build in SCREENS.items():
        path = folder / name
        path.write_text(build().text(), encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(written)
