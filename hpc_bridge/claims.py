"""Jobs that run once for each request, however often they are submitted: by a claim in a folder that workers share.

A service that has no way to know a submission again may be asked twice when its reply is lost. The second call waits
for the first and gives its result. Only if the first one's process died without a result, the second does the work.
"""

import base64
import fcntl
import json
import re
from pathlib import Path

from hpc_bridge.errors import TaskFailed
from hpc_bridge.ports import Json
from hpc_bridge.workers import answer_of, run_job
from phasing.files import replaced_file


def run_once(target: str, request: str, folder: str, kwargs: Json) -> Json:
    """Call ``package.module:function`` for a request and return its JSON object. Raises TaskFailed.

    ``folder`` holds the claims; its file system must know locks.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9:._-]*", request):
        raise TaskFailed(f"{request!r} is no name of a request")
    claims = Path(folder)
    claims.mkdir(parents=True, exist_ok=True)
    result = claims / f"{request}.result.json"
    with (claims / f"{request}.claim").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        if not result.exists():
            text = run_job(target, json.dumps(kwargs))
            with replaced_file(result) as part:
                part.write_text(text, encoding="utf-8")
        return answer_of(result.read_text(encoding="utf-8"))


def tail(path: str, offset: int, limit_bytes: int) -> Json:
    """Return part of a file of the compute side as base64; a job by which progress is read from afar."""
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            content = file.read(limit_bytes)
    except FileNotFoundError:
        return {"missing": True}
    return {"base64": base64.b64encode(content).decode("ascii")}
