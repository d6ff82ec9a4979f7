"""Flows of the kinds that the service's own documentation publishes run here as they stand."""

import pytest
from scripted import DEADLINE_S, Scripted

from hpc_bridge.errors import DefinitionError, TaskFailed
from hpc_bridge.journal import RunStatus
from hpc_bridge.lint import problems
from hpc_bridge.runner import FlowRunner

MOVE = {
    "Comment": "Move files in batches: copy, delete at the source, until there is no batch left",
    "StartAt": "Prepare",
    "States": {
        "Prepare": {
            "Type": "ExpressionEval",
            "Parameters": {
                "index": 0,
                "number.=": "len(input.batches)",
                "folder.=": "pathsplit(input.destination)[0]",
                "label.=": "getattr('input.label', 'move ' + _context.run_id)",
            },
            "ResultPath": "$.loop",
            "Next": "More",
        },
        "More": {
            "Type": "Choice",
            "Choices": [
                {
                    "And": [
                        {"Variable": "$.loop.index", "IsNumeric": True},
                        {"Variable": "$.loop.index", "NumericLessThanPath": "$.loop.number"},
                    ],
                    "Next": "Copy",
                }
            ],
            "Default": "Done",
        },
        "Copy": {
            "Type": "Action",
            "ActionUrl": "https://transfer.actions.globus.org/transfer/",
            "Parameters": {
                "source_endpoint.$": "$.input.source",
                "destination_endpoint.$": "$.input.source",
                "label.$": "$.loop.label",
                "DATA.=": "input.batches[loop.index]",
            },
            "ResultPath": "$.Copy",
            "WaitTime": 172800,
            "Catch": [{"ErrorEquals": ["ActionUnableToRun"], "ResultPath": "$.trouble", "Next": "Stop"}],
            "Next": "Delete",
        },
        "Delete": {
            "Type": "Action",
            "ActionUrl": "https://transfer.actions.globus.org/delete",
            "Parameters": {"endpoint.$": "$.input.source", "password": "s", "__Private_Parameters": ["password"]},
            "ResultPath": "$.Delete",
            "WaitTime": 3600,
            "ExceptionOnActionFailure": False,
            "RunAs": "User",
            "Next": "Count",
        },
        "Count": {
            "Type": "Pass",
            "Parameters": {"index.=": "loop.index + 1", "number.$": "$.loop.number", "label.$": "$.loop.label"},
            "ResultPath": "$.loop",
            "Next": "More",
        },
        "Stop": {"Type": "Fail", "Error": "MoveFailed", "CausePath": "$.trouble.Cause"},
        "Done": {"Type": "Pass", "Result": "all moved", "ResultPath": "$.said", "End": True},
    },
}
DOCUMENT = {"input": {"source": "a", "destination": "/~/data/x", "batches": [["f1"], ["f2", "f3"]]}}


@pytest.fixture
def providers():
    return {
        "https://transfer.actions.globus.org/transfer": Scripted(automatic=True),
        "https://transfer.actions.globus.org/delete": Scripted(automatic=True),
    }


@pytest.fixture
def runner(tmp_path, providers):
    with FlowRunner(tmp_path / "runs.sqlite", providers) as runner:
        yield runner


def test_a_loop_over_batches_with_expressions(runner, providers):
    assert problems(MOVE) == []
    run = runner.submit(MOVE, DOCUMENT, "move")
    assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    copy, delete = providers.values()
    assert [body["DATA"] for body in copy.bodies.values()] == [["f1"], ["f2", "f3"]]
    assert {body["label"] for body in copy.bodies.values()} == {f"move {run}"}
    assert list(delete.bodies.values()) == [{"endpoint": "a", "password": "s"}] * 2
    document = runner.document(run)
    assert document["said"] == "all moved"
    assert document["loop"]["index"] == 2


def test_a_failed_action_is_an_answer_where_it_is_no_exception(runner, providers):
    delete = providers["https://transfer.actions.globus.org/delete"]
    delete.automatic = False
    run = runner.submit(MOVE, {"input": {**DOCUMENT["input"], "batches": [["f1"]]}}, "move")
    delete.fail(delete.next_started(), "permission denied")
    assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert runner.document(run)["Delete"]["status"] == "FAILED"


def test_an_action_that_cannot_run_is_caught_by_its_name(runner, providers):
    providers["https://transfer.actions.globus.org/transfer"].refusal = lambda: TaskFailed("no such endpoint")
    run = runner.submit(MOVE, DOCUMENT, "move")
    row = runner.wait(run, DEADLINE_S)
    assert (row.status, row.state, row.message) == (RunStatus.FAILED, "Stop", "Copy: no such endpoint")


def test_a_flow_whose_actions_nobody_serves_is_refused(tmp_path, providers):
    del providers["https://transfer.actions.globus.org/transfer"]
    with (
        FlowRunner(tmp_path / "few.sqlite", providers) as runner,
        pytest.raises(DefinitionError, match="no provider is configured for https://transfer"),
    ):
        runner.submit(MOVE, DOCUMENT, "move")
