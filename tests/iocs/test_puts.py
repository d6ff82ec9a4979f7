"""Puts of setpoints from both protocols: what is taken, what is refused and why."""

import math
import subprocess

import clients
from loopback import tool
from served_ioc import LONG_TEXT, PREFIX


def put_and_watch(prefix):
    """Put from each side and wait until a monitor of the other shows it, with the read-back."""
    names = ["Train:Epochs", "Train:Epochs_RBV"]
    by_ca = {name: clients.Seen() for name in names}
    by_pva = {name: clients.Seen() for name in names}
    pvs = [
        clients.ca(prefix + name, form="time", callback=lambda value, posixseconds, nanoseconds, name=name, **_:
                   by_ca[name].add((value, posixseconds, nanoseconds)), auto_monitor=True)
        for name in names
    ]  # fmt: skip
    with clients.pva() as context:
        subscriptions = [
            clients.monitor(
                context, prefix + name, lambda value, name=name: by_pva[name].add((int(value), *value.raw_stamp))
            )
            for name in names
        ]
        pvs[0].put(12, wait=True, timeout=clients.DEADLINE_S)
        first = [by_pva[name].until(lambda entry: entry[0] == 12) for name in names]
        context.put(prefix + names[0], 13)
        second = [by_ca[name].until(lambda entry: entry[0] == 13) for name in names]
        same = [by_pva[name].until(lambda entry: entry[0] == 13) for name in names]
        context.put(prefix + names[0], 400)
        by_ca[names[1]].until(lambda entry: entry[0] == 100)  # what the handler made of it
        [subscription.close() for subscription in subscriptions]
    return [entry[0] for entry in first], second, same


def test_a_put_from_each_side_is_seen_on_the_other(workflow):
    first, by_ca, by_pva = workflow.call(put_and_watch, PREFIX)
    assert first == [12, 12]
    assert by_ca == by_pva  # with the time stamp


REFUSED_BY_BOTH = [
    ("Train:Epochs", 0, "0 is outside 1 to 10000", "Train:Message"),
    ("Train:Epochs", 20_000, "20000 is outside 1 to 10000", "Train:Message"),
    ("Flow:Hold", 1, "not now", "Flow:Message"),
    ("Flow:Hold", 7, "7 is none of Off, On", "Flow:Message"),
    ("Train:Abort", 1, "this action is not available", "Train:Message"),
    ("Model:Rollback", 1, "there is nothing to go back to", "Model:Message"),
    ("Recon:NumEpochs", 5, "internal error, KeyError: 'oops'", "Recon:Message"),
    ("Scan:File", "x" * 1024, "1024 characters, 1023 at most", "Scan:Message"),
]


def _value(context, name):
    value = context.get(name).raw.value
    return value if isinstance(value, int | str) else value.index


def put_refused(prefix):
    results = []
    with clients.pva() as context:
        for name, value, _, message in REFUSED_BY_BOTH:
            where = f"{prefix}{name}.VAL$" if isinstance(value, str) else prefix + name
            wire = value.encode() if isinstance(value, str) else value
            told = clients.ca_put(where, wire), clients.ca_get(f"{prefix}{message}.VAL$")
            before = _value(context, prefix + name)
            raw = {"value.index": value} if name == "Flow:Hold" else value
            by_pva = clients.pva_put(context, prefix + name, raw)
            text = context.get(prefix + message).raw
            unchanged = _value(context, prefix + name) == before
            results.append((*told, by_pva, text.value, text.alarm.severity, unchanged))
    return results


def test_refusals_carry_the_reason_on_both(workflow):
    for (name, _, reason, _), seen in zip(REFUSED_BY_BOTH, workflow.call(put_refused, PREFIX), strict=True):
        by_ca, told_by_ca, by_pva, told_by_pva, severity, unchanged = seen
        assert "ECA_PUTFAIL" in by_ca, name
        assert told_by_ca == told_by_pva == f"{name}: {reason}"
        assert by_pva == reason
        assert severity in (1, 2) and unchanged, name


def put_of_wrong_types(prefix):
    from caproto import ChannelType
    from caproto.sync import client

    def told(name, value, data_type, message):
        try:
            client.write(prefix + name, value, notify=True, timeout=clients.DEADLINE_S, repeater=False,
                         data_type=data_type)  # fmt: skip
        except client.ErrorResponseReceived:
            return clients.ca_get(f"{prefix}{message}.VAL$")
        return "taken"

    text, double = ChannelType.STRING, ChannelType.DOUBLE
    return [
        told("Train:Epochs", ["many"], text, "Train:Message"),
        told("Train:Epochs", [""], text, "Train:Message"),
        told("Train:Epochs", [math.nan], double, "Train:Message"),
        told("Train:Epochs", [2.5], double, "Train:Message"),
        told("Flow:Hold", ["Perhaps"], text, "Flow:Message"),
        told("Flow:Hold", [math.inf], double, "Flow:Message"),
        told("Scan:File", ["x" * 60], text, "Scan:Message"),
        told("Scan:File.VAL$", b"\xff\xfe", ChannelType.CHAR, "Scan:Message"),
        told("Train:Epochs", ["17"], text, "Train:Message"),
        clients.ca_get(prefix + "Train:Epochs"),
    ]


def test_what_channel_access_clients_may_send_by_mistake(workflow):
    assert workflow.call(put_of_wrong_types, PREFIX) == [
        "Train:Epochs: 'many' is not a number",
        "Train:Epochs: '' is not a number",
        "Train:Epochs: nan is not a finite number",
        "Train:Epochs: 2.5 is not a whole number",
        "Flow:Hold: 'Perhaps' is none of Off, On",
        "Flow:Hold: inf is none of Off, On",
        "Scan:File: over 39 characters; on Channel Access put longer text to .VAL$",
        "Scan:File: b'\\xff\\xfe' is not UTF-8",
        "taken",
        17,
    ]


def put_nan_and_what_is_read_only(prefix):
    import pvaccess

    names = [f"{prefix}{name}" for name in ("Train:Loss", "Train:State", "Flow:Message", "Flow:Table")]
    with clients.pva() as context:
        by_p4p = [
            clients.pva_put(context, names[0], 1.0),
            clients.pva_put(context, names[1], {"value.index": 1}),
            clients.pva_put(context, names[2], "x"),
            clients.pva_put(context, names[3], {"labels": ["x"] * 7}),
            clients.pva_put(context, f"{prefix}Train:Epochs", {"alarm.severity": 2}),
            clients.pva_put(context, f"{prefix}Model:Gate", {"value.choices": ["no", "index"]}),
        ]
    by_ca = [clients.ca_put(name, 1) for name in names[:2]] + [clients.ca_put(names[2], "x")]
    try:
        pvaccess.Channel(names[0]).putDouble(1.0)
        by_pvapy = "taken"
    except pvaccess.PvaException as error:
        by_pvapy = str(error)
    return by_p4p, by_ca, by_pvapy, [clients.ca(name).write_access for name in names[:3]]


def test_read_only_pvs_refuse_both(workflow):
    by_p4p, by_ca, by_pvapy, writable = workflow.call(put_nan_and_what_is_read_only, PREFIX)
    assert by_p4p == ["read-only"] * 3 + ["only the value can be written"] * 3
    assert all("read-only" in reason for reason in by_ca)
    assert "read-only" in by_pvapy
    assert writable == [False] * 3


def put_nan(prefix):
    with clients.pva() as context:
        by_pva = [clients.pva_put(context, f"{prefix}Det:cam1:AcquireTime", math.nan)]
        by_pva.append(clients.pva_put(context, f"{prefix}Det:HDF1:FileName", "x" * 256))
        told = clients.pva_text(context, f"{prefix}Det:HDF1:WriteMessage")
    return by_pva, clients.ca_put(f"{prefix}Det:cam1:AcquireTime", math.nan), told


def test_nan_and_long_texts_are_refused(iocs):
    by_pva, by_ca, told = iocs.call(put_nan, "D:")
    assert by_pva == ["nan is not a finite number", "256 characters, 255 at most"]
    assert "nan is not a finite number" in by_ca
    assert told == "Det:HDF1:FileName: 256 characters, 255 at most"


def put_long_strings(prefix):
    path, abroad = "/data/" + "scan/" * 60 + "a.h5", "/data/Müller/α.h5"
    name = f"{prefix}Scan:File"
    with clients.pva() as context:
        clients.ca(f"{name}.VAL$").put(path, wait=True, timeout=clients.DEADLINE_S)
        results = [clients.pva_text(context, name) == path == clients.ca_get(f"{name}_RBV.VAL$")]
        context.put(name, abroad)
        as_bytes = bytes(clients.ca(f"{name}.VAL$", auto_monitor=False).get(timeout=clients.DEADLINE_S).tolist())
        results.append(as_bytes == abroad.encode())
        context.put(name, "")
        results.append(clients.ca_get(f"{name}.VAL$") == "")
        clients.ca_put(f"{name}.VAL$", abroad.encode())
        results.append(clients.pva_text(context, name) == abroad)
    return results


def test_long_strings(workflow):
    assert workflow.call(put_long_strings, PREFIX) == [True] * 4


def tell_long_text(prefix):
    with clients.pva() as context:
        context.put(f"{prefix}Model:Accept", 1)  # shows texts that are longer than their PVs
        names = [f"{prefix}Exp:Proposal", f"{prefix}Flow:Message"]
        by_ca = [clients.ca_get(names[0]), clients.ca(f"{names[1]}.VAL$").get(timeout=clients.DEADLINE_S).tolist()]
        return [clients.pva_text(context, name) for name in names], by_ca


def test_a_text_longer_than_its_pv_is_cut_and_not_lost(workflow):
    by_pva, (proposal, message) = workflow.call(tell_long_text, PREFIX)
    assert by_pva == ["p" * 39, LONG_TEXT[: 511 // 2]]
    assert [proposal, bytes(message).decode()] == by_pva


def test_command_line_puts(workflow):
    workflow.run([tool("caproto-put"), "--no-repeater", "-c", f"{PREFIX}Recon:Batch", "77"])
    printed, _ = workflow.python("-m", "p4p.client.cli", "-w", str(clients.DEADLINE_S), "get", f"{PREFIX}Recon:Batch")
    assert "77" in printed


def test_command_line_monitor_sees_a_put(workflow, limited):
    command = [tool("caproto-monitor"), "--no-repeater", "--format", "{response.data}", f"{PREFIX}Recon:Batch"]
    environment = workflow.ports.environment() | {"PYTHONUNBUFFERED": "1"}
    with limited(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)) as monitor:
        assert "40" in monitor.stdout.readline()
        workflow.run([tool("caproto-put"), "--no-repeater", "-c", f"{PREFIX}Recon:Batch", "41"])
        assert "41" in monitor.stdout.readline()
