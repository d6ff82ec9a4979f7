"""Files by which a worker says that it has taken up a task; they outlive whatever is killed meanwhile."""

from pathlib import Path


class Marks:
    """The marks of one provider's actions, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Make the folder; marks of a former process stay until they are cleared."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, task: str) -> Path:
        """Return the mark of a task; its name is its action's, a hyphen and a number."""
        return self._folder / task

    def has(self, action_id: str) -> bool:
        """Whether any task of the action was taken up."""
        return next(self._folder.glob(f"{action_id}-*"), None) is not None

    def clear(self, action_id: str = "") -> None:
        """Remove the marks of an action, or all."""
        for mark in self._folder.glob(f"{action_id}*"):
            mark.unlink(missing_ok=True)
