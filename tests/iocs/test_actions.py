"""Actions and remote procedures: completion, failure, stopping and alarms on both protocols."""

import clients
from served_ioc import PREFIX

RECORD_ALARM = 3


def run_actions(prefix):
    """An action started on one protocol, watched and refused on both, ended by what it waits for."""
    facts = {}
    with clients.pva() as context:
        for side, start in (("ca", clients.ca_put), ("pva", lambda name, one: clients.pva_put(context, name, one))):
            context.put(f"{prefix}Train:Standby", "Off")
            busy = clients.Seen()
            watch = clients.monitor(context, f"{prefix}Flow:Run_RBV", lambda value, busy=busy: busy.add(int(value)))
            done = clients.background(start, f"{prefix}Flow:Run", 1)
            busy.until(lambda value: value == 1)
            facts[side] = [
                clients.ca_get(f"{prefix}Flow:Run_RBV"),
                clients.pva_put(context, f"{prefix}Flow:Run", 1),
                "already running" in clients.ca_put(f"{prefix}Flow:Run", 1),
                clients.ca_get(f"{prefix}Flow:Message.VAL$"),
                done.empty(),
            ]
            context.put(f"{prefix}Train:Standby", "On")
            facts[side] += [done.get(timeout=clients.DEADLINE_S)[0], clients.ca_get(f"{prefix}Flow:Run_RBV")]
            watch.close()
    return facts


def test_a_put_with_completion_waits_for_the_action(workflow):
    expected = ["Busy", "already running", True, "Flow:Run: already running", True, "ok", "Done"]
    assert workflow.call(run_actions, PREFIX) == {"ca": expected, "pva": expected}


def stop_actions(prefix):
    facts = []
    with clients.pva() as context:
        for stop in (clients.ca_put, lambda name, zero: clients.pva_put(context, name, zero)):
            for start in (clients.ca_put, lambda name, one: clients.pva_put(context, name, one)):
                busy = clients.Seen()
                watch = clients.monitor(
                    context, f"{prefix}Train:Start_RBV", lambda value, busy=busy: busy.add(int(value))
                )
                done = clients.background(start, f"{prefix}Train:Start", 1)
                busy.until(lambda value: value == 1)
                stopped = stop(f"{prefix}Train:Start", 0)
                shown = int(context.get(f"{prefix}Train:Start_RBV"))
                told = clients.pva_text(context, f"{prefix}Train:Message")
                ended = done.get(timeout=clients.DEADLINE_S)[0]
                facts.append([stopped, shown, told, ended, int(context.get(f"{prefix}Train:Start").severity)])
                context.put(f"{prefix}Scan:File", "")
                watch.close()
        facts.append(clients.ca_put(f"{prefix}Train:Start", 0))
    return facts


def test_zero_stops_at_once_and_ends_the_waiting_put(workflow):
    facts = workflow.call(stop_actions, PREFIX)
    assert facts.pop() == "ok"  # nothing to stop
    # When the put of 0 is done, so is the action, with what it does to end well.
    assert facts == [["ok", 0, "cleaned up", "ok", 0]] * 4


def fail_actions(prefix):
    by_ca = {}
    with clients.pva() as context:
        severity = clients.Seen()
        pv = clients.ca(f"{prefix}Scan:Submit.SEVR", auto_monitor=True)
        pv.add_callback(lambda char_value, **_: severity.add(char_value), run_now=True)
        for name in ("Scan:Submit", "Flow:Retry", "Model:Select"):
            by_ca[name] = [
                clients.ca_put(prefix + name, 1),
                clients.ca_get(f"{prefix}{name}.SEVR"),
                clients.ca_get(f"{prefix}{name}.STAT"),
                clients.ca_get(f"{prefix}{name.split(':')[0]}:Message.VAL$"),
                clients.ca_get(f"{prefix}{name.split(':')[0]}:Message.SEVR"),
                clients.pva_put(context, prefix + name, 1),
                context.get(prefix + name).raw.alarm.tolist(),
            ]
        severity.until(lambda text: text == "MAJOR")
    return by_ca


def test_a_failed_action_completes_on_channel_access_and_errors_on_pv_access(workflow):
    reasons = {
        "Scan:Submit": "no such file",
        "Flow:Retry": "internal error, KeyError: 'oops'",
        "Model:Select": "the edge refused version 1",
    }
    for name, seen in workflow.call(fail_actions, PREFIX).items():
        reason = reasons[name]
        assert seen[:5] == ["ok", "MAJOR", "SOFT", f"{name}: {reason}", "MAJOR"]
        assert seen[5] == reason
        assert dict(seen[6]) == {"severity": 2, "status": RECORD_ALARM, "message": reason}


def show_alarms(prefix):
    names = ["Transfer:DiskFree", "Train:Loss", "Train:State", "Train:ValLoss"]
    seen = {name: clients.Seen() for name in names}
    pvs = [clients.ca(f"{prefix}{name}.SEVR", auto_monitor=True) for name in names]
    for name, pv in zip(names, pvs, strict=True):
        pv.add_callback(lambda char_value, name=name, **_: seen[name].add(char_value), run_now=True)
    with clients.pva() as context:
        context.put(f"{prefix}Model:Accept", 1)
        changed = [seen[name].until(lambda text: text != "NO_ALARM") for name in names]
        status = [clients.ca_get(f"{prefix}{name}.STAT") for name in names]
        alarms = [dict(context.get(prefix + name).raw.alarm.tolist()) for name in names]
        history = context.get(f"{prefix}Train:LossHistory").tolist(), clients.ca_get(f"{prefix}Train:LossHistory")
    return changed, status, alarms, history


def test_severity_and_status_follow(workflow):
    changed, status, alarms, history = workflow.call(show_alarms, PREFIX)
    assert changed == ["MAJOR", "INVALID", "MAJOR", "MINOR"]
    assert status == ["LOLO", "UDF", "STATE", "SOFT"]
    assert [alarm["severity"] for alarm in alarms] == [2, 3, 2, 1]
    assert [alarm["message"] for alarm in alarms] == ["LOLO", "UDF", "STATE", "doubtful"]
    assert history == ([3.0, 2.0, 1.5],) * 2 or history == [[3.0, 2.0, 1.5]] * 2


def call_procedure(prefix):
    from p4p import Type, Value
    from p4p.client.thread import RemoteError
    from p4p.nt import NTURI

    def fetch(version):
        return ask(NTURI([("version", "s")]).wrap(f"{prefix}Model:Fetch", kws={"version": version}))

    def ask(query):
        try:
            reply = context.rpc(f"{prefix}Model:Fetch", query, timeout=clients.DEADLINE_S)
        except RemoteError as error:
            return str(error)
        return reply.card, reply.data.tolist()

    with clients.pva() as context:
        no_structure = Value(Type([("query", "s")]), {"query": "7"})
        return [fetch("7"), fetch("8"), fetch("x"), ask(no_structure)]


def test_a_remote_procedure_answers_and_errors(workflow):
    answer, absent, broken, odd = workflow.call(call_procedure, PREFIX)
    assert answer == ["a card", [0, 1, 255]]
    assert absent == "there is no version 8"
    assert broken == "internal error, KeyError: 'oops'"
    assert "fields of a structure" in odd
