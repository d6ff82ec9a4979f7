"""Globus on loopback, for tests: Auth, Transfer, Flows and Compute over real HTTP, acting through the local adapters.

The real globus_sdk and globus_compute_sdk talk to it. What it knows lies in a folder, so that it may be killed and
started again on the same port. `python -m globus_emulator --state DIR` runs it as a process of its own.
"""

from globus_emulator.emulator import Emulator

__all__ = ["Emulator"]
