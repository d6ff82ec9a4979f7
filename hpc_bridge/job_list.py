"""Which jobs may be called: ours, and those of other installed packages that the configuration names."""

from collections.abc import Sequence
from importlib.metadata import entry_points

from hpc_bridge.jobs import JOBS
from phasing.errors import PhaselineError

GROUP = "phaseline.jobs"
"""The group of entry points under which a package offers jobs: `NAME = package.module:function`."""


class JobListError(PhaselineError):
    """A job that was allowed, but cannot be had as it is meant."""


def allowed_jobs(names: Sequence[str]) -> dict[str, str]:
    """Return our jobs and the named ones, by name, as ``package.module:function``.

    Raises JobListError for a name that no installed package offers, that several offer, or that is one of ours.
    """
    found = dict(JOBS)
    for name in names:
        offered = {point.value for point in entry_points(group=GROUP, name=name)}
        if name in JOBS:
            raise JobListError(f"bridge.jobs: {name} is a job of phaseline's own")
        if not offered:
            known = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
            raise JobListError(f"bridge.jobs: no installed package offers a job {name} (offered: {known})")
        if len(offered) > 1:
            raise JobListError(f"bridge.jobs: several packages offer a job {name}: {', '.join(sorted(offered))}")
        found[name] = offered.pop()
    return found
