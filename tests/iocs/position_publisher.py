"""Positions on command, in a process of their own.

Arguments: a PV for tables, and one for each of the axes x and y. Each line on standard input is a JSON object: columns
of a table, or `axis` (x or y), `value` and `time_s`. Prints `ready`, and `done` after each.
"""

import json
import sys

import pvaccess as pva

COLUMNS = {"time": [pva.DOUBLE], "x": [pva.DOUBLE], "y": [pva.DOUBLE]}
TABLE = {"labels": [pva.STRING], "value": COLUMNS}
SCALAR = {
    "value": pva.DOUBLE,
    "timeStamp": {"secondsPastEpoch": pva.LONG, "nanoseconds": pva.INT, "userTag": pva.INT},
}


def table(columns):
    return pva.PvObject(TABLE, {"labels": list(COLUMNS), "value": columns}, "epics:nt/NTTable:1.0")


def scalar(value, time_s):
    seconds = int(time_s)
    stamp = {"secondsPastEpoch": seconds, "nanoseconds": round((time_s - seconds) * 1e9)}
    return pva.PvObject(SCALAR, {"value": value, "timeStamp": stamp}, "epics:nt/NTScalar:1.0")


def main(table_name, x_name, y_name):
    axes = {"x": x_name, "y": y_name}
    first = json.loads(sys.stdin.readline())
    server = pva.PvaServer()
    server.addRecord(table_name, table({"time": [], "x": [], "y": []}))
    for axis, name in axes.items():
        server.addRecord(name, scalar(first[axis], first["time_s"]))
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "axis" in told:
            server.update(axes[told["axis"]], scalar(told["value"], told["time_s"]))
        else:
            server.update(table_name, table(told))
        print("done", flush=True)


main(*sys.argv[1:])
