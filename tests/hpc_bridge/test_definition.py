import copy
import json

import pytest
from scripted import action

from hpc_bridge.definition import FlowDefinition, load, problems, shipped
from hpc_bridge.errors import DefinitionError
from hpc_bridge.local_compute import COMPUTE_URL
from hpc_bridge.local_transfer import TRANSFER_URL
from hpc_bridge.paths import evaluate

SOUND = {"StartAt": "A", "States": {"A": action("B"), "B": action()}}


def changed(name, **keys):
    flow = copy.deepcopy(SOUND)
    for key, value in keys.items():
        if value is None:
            del flow["States"][name][key]
        else:
            flow["States"][name][key] = value
    return flow


def test_sound_definition_has_no_problems():
    assert problems(SOUND) == []
    assert FlowDefinition.from_json(SOUND).to_json() == SOUND


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        ({"StartAt": "A"}, "no States"),
        ({**SOUND, "StartAt": "C"}, "StartAt names 'C'"),
        ({**SOUND, "Sates": {}}, "unknown key 'Sates'"),
        (changed("A", Next="C"), "leads to 'C', which is no state"),
        (changed("A", Next=None), "either Next or End"),
        (changed("A", End=True), "either Next or End"),
        (changed("A", Next=None, End=True), "state B: cannot be reached"),
        (changed("A", Type="Parallel"), "'Parallel' cannot be run here"),
        (changed("A", Type="ExpressionEval"), "'ExpressionEval' cannot be run here"),
        (changed("A", WaitTime=None), "no WaitTime"),
        (changed("A", ResultPath="$"), "overwrite the whole document"),
        (changed("A", ResultPath=None), "overwrite the whole document"),
        (changed("A", ResultPath="result"), "does not start with $"),
        (changed("A", Parameters={"x": [{"y.$": "$.a..b"}]}), "cannot be understood from '..b'"),
        (changed("A", Parameters={"x.=": "1 + 1"}), "the expression 'x.=' cannot be run here"),
        (changed("A", Retry=[]), "unknown key 'Retry'"),
        (changed("A", Catch=[{"ErrorEquals": ["States.ALL"], "Next": "C", "ResultPath": "$.e"}]), "leads to 'C'"),
        (changed("A", Catch=[{"ErrorEquals": ["States.ALL"], "Next": "B"}]), "a Catch would overwrite"),
    ],
)
def test_what_the_service_would_refuse_is_named(flow, text):
    assert text in "; ".join(problems(flow))
    with pytest.raises(DefinitionError, match="refused"):
        FlowDefinition.from_json(flow)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"Variable": "$.a", "NumericAbout": 1, "Next": "B"}, "exactly one known comparison, not NumericAbout"),
        ({"Variable": "a", "NumericEquals": 1, "Next": "B"}, "does not start with $"),
        ({"And": [{"Variable": "$.a"}], "Next": "B"}, "not none"),
        ({"Variable": "$.a", "NumericEqualsPath": "b", "Next": "B"}, "does not start with $"),
    ],
)
def test_a_bad_rule_is_named(rule, text):
    flow = {"StartAt": "A", "States": {"A": {"Type": "Choice", "Choices": [rule], "Default": "B"}, "B": action()}}
    assert text in "; ".join(problems(flow))


@pytest.mark.parametrize("name", ["run", "round"])
def test_shipped_flows_are_sound(name):
    flow = shipped(name)
    assert flow.action_urls <= {TRANSFER_URL, COMPUTE_URL, "phaseline:register"}
    for state in flow.states.values():
        assert state["WaitTime"] > 0
        assert state["ResultPath"].startswith("$.")


def test_run_flow_hands_on_what_the_steps_need():
    document = {
        "source": {"endpoint": "beamline", "path": "/s.h5"},
        "compute": {"collection": "compute", "path": "/scans/s.h5", "endpoint": "local"},
        "reconstruct": {"scan_file": "/c/scans/s.h5", "output": "/c/r.h5"},
        "pairs": {"output": "/c/pairs", "pixel_size_m": None, "progress": None},
        "Reconstruct": {"details": {"results": [{"output": {"reconstruction": "/c/r.h5"}}]}},
    }
    states = shipped("run").states
    transfer = evaluate(states["Transfer"]["Parameters"], document)
    assert transfer["DATA"] == [{"source_path": "/s.h5", "destination_path": "/scans/s.h5"}]
    kwargs = evaluate(states["Pairs"]["Parameters"], document)["tasks"][0]["kwargs"]
    assert (kwargs["scan_file"], kwargs["reconstruction"]) == ("/c/scans/s.h5", "/c/r.h5")


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "flow.json"
    with pytest.raises(DefinitionError, match=r"flow\.json: No such file"):
        load(path)
    path.write_text("{")
    with pytest.raises(DefinitionError, match=r"flow\.json is not JSON"):
        load(path)
    path.write_text(json.dumps({**SOUND, "StartAt": "C"}))
    with pytest.raises(DefinitionError, match=r"flow\.json: .*StartAt"):
        load(path)
