import copy
import json
import random

import pytest
from scripted import action

from hpc_bridge.definition import FlowDefinition, load, shipped
from hpc_bridge.errors import DefinitionError
from hpc_bridge.lint import problems
from hpc_bridge.local_compute import COMPUTE_URL
from hpc_bridge.local_transfer import TRANSFER_URL
from hpc_bridge.steps import StepError, body, enter

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
        (changed("A", Type="Parallel"), "'Parallel' does not exist"),
        (changed("A", Type="Succeed"), "end the state before it with End: true"),
        (changed("A", Type="ExpressionEval"), "unknown key 'ActionUrl'"),
        (changed("A", End=False), "End can only be true"),
        (changed("A", Next=["B"]), "leads to ['B'], which is no state"),
        (changed("A", ActionUrl="http://act.test"), "no ActionUrl that begins with https://"),
        (changed("A", ActionUrl="https://actions.globus.org/transfer/transfer"), "served no more"),
        (changed("A", ActionUrl="https://api.funcx.org/automate"), "it is https://compute.actions.globus.org/v3 now"),
        (changed("B", End=None, Next="A"), "state A: a run that comes here never ends"),
        (changed("A", Parameters={"a": 1, "__Private_Parameters": ["b"]}), "names 'b', which is no parameter"),
        (changed("A", Parameters=[1]), "Parameters are not an object"),
        (changed("A", Catch={"Next": "B"}), "its Catch is not a list"),
        (changed("A", WaitTime=None), "no WaitTime"),
        (changed("A", ResultPath="$"), "overwrite the whole document"),
        (changed("A", ResultPath=None), "overwrite the whole document"),
        (changed("A", ResultPath="result"), "does not start with $"),
        (changed("A", Parameters={"x": [{"y.$": "$.a..b"}]}), "cannot be understood from '..b'"),
        (changed("A", Parameters={"x.=": "1 +"}), "the expression '1 +' cannot be understood"),
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
        ({"Variable": "$.a", "NumericEquals": "1", "Next": "B"}, "NumericEquals cannot compare with '1'"),
        ({"Variable": "$.a", "TimestampEquals": "soon", "Next": "B"}, "'soon' is no time stamp"),
        ({"Variable": "$.a", "IsPresent": True}, "a rule has no Next"),
    ],
)
def test_a_bad_rule_is_named(rule, text):
    flow = {"StartAt": "A", "States": {"A": {"Type": "Choice", "Choices": [rule], "Default": "B"}, "B": action()}}
    assert text in "; ".join(problems(flow))


@pytest.mark.parametrize("name", ["run", "round"])
def test_shipped_flows_are_sound(name):
    flow = shipped(name)
    assert flow.action_urls <= {TRANSFER_URL, COMPUTE_URL}
    for state in flow.states.values():
        if state["Type"] == "Action":
            assert state["WaitTime"] > 0
            assert state["ResultPath"].startswith("$.")


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "flow.json"
    with pytest.raises(DefinitionError, match=r"flow\.json: No such file"):
        load(path)
    path.write_text("{")
    with pytest.raises(DefinitionError, match=r"flow\.json is not JSON"):
        load(path)
    path.write_text('{"StartAt": "A", "StartAt": "B", "States": {}}')
    with pytest.raises(DefinitionError, match=r"flow\.json: the key 'StartAt' comes twice"):
        load(path)
    path.write_text(json.dumps({**SOUND, "StartAt": "C"}))
    with pytest.raises(DefinitionError, match=r"flow\.json: .*StartAt"):
        load(path)


def scalars(value):
    """Every place in a definition at which something else could stand: its container and key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []:
        yield value, key
        yield from scalars(value[key])


NONSENSE = (None, "", "$", "$.", "$.a[", "A", -1, 0, 1e400, True, [], {}, [1], {"x": 1}, ["A"], {"End": True}, "1 +")


@pytest.mark.parametrize("seed", range(4))
def test_a_definition_edited_into_nonsense_is_refused_or_runs_and_never_breaks_the_check(seed):
    """Random places of the shipped flows get random things; what passes the check can be entered state by state."""
    generator = random.Random(seed)
    for _ in range(300):
        flow = json.loads(json.dumps(shipped(generator.choice(["run", "round"])).to_json()))
        for _ in range(generator.randint(1, 3)):
            if not (places := list(scalars(flow))):
                break
            container, key = generator.choice(places)
            if isinstance(container, dict) and generator.random() < 0.3:
                del container[key]
            else:
                container[key] = copy.deepcopy(generator.choice(NONSENSE))
        try:
            definition = FlowDefinition.from_json(flow)
        except DefinitionError:
            continue
        for name, state in definition.states.items():
            try:
                if state["Type"] == "Action":
                    body(name, state, {}, "r1")
                else:
                    enter(name, state, {}, run_id="r1", waited_s=0.0)
            except StepError as error:
                assert str(error)
