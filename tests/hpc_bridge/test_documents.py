import pytest

from hpc_bridge.choice import holds
from hpc_bridge.expressions import check, compute
from hpc_bridge.paths import PathError, evaluate, parse, read, write
from hpc_bridge.steps import StepError, enter

DOCUMENT = {"a": {"b": [10, {"c d": "text"}]}, "n": 3, "t": True, "nothing": None, "when": "2026-01-02T03:04:05Z"}


def test_paths_read_objects_lists_and_quoted_names():
    assert parse("$") == ()
    assert read(DOCUMENT, "$") == DOCUMENT
    assert read(DOCUMENT, "$.a.b[0]") == 10
    assert read(DOCUMENT, "$.a.b[1]['c d']") == "text"


@pytest.mark.parametrize("path", ["$.a.x", "$.a.b[2]", "$.n.b", "$.a[0]", "$.a.b.c"])
def test_a_path_that_leads_nowhere_is_named(path):
    with pytest.raises(PathError, match="leads nowhere"):
        read(DOCUMENT, path)


def test_writing_leaves_the_original_alone_and_makes_objects():
    result = write(DOCUMENT, "$.x.y", [1])
    assert result["x"] == {"y": [1]}
    assert "x" not in DOCUMENT
    assert read(write(DOCUMENT, "$.a.e", 1), "$.a.b[0]") == 10


@pytest.mark.parametrize("path", ["$.n.x", "$.a.b[0]", "$._context.run_id", "$"])
def test_what_cannot_be_written_is_refused(path):
    with pytest.raises(PathError):
        write(DOCUMENT, path, 1)


def test_parameters_are_filled_at_every_depth():
    template = {"list": [{"v.$": "$.a.b[0]"}, 1], "plain": {"text": "$.n"}, "n.$": "$.n"}
    assert evaluate(template, DOCUMENT, compute) == {"list": [{"v": 10}, 1], "plain": {"text": "$.n"}, "n": 3}


def test_secret_parameters_are_handed_on_and_their_list_is_not():
    template = {"word": "xyzzy", "__Private_Parameters": ["word"]}
    assert evaluate(template, DOCUMENT, compute) == {"word": "xyzzy"}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("n + 1", 4),
        ("'/~/' + a.b[1]['c d']", "/~/text"),
        ("`a`.b + [n]", [10, {"c d": "text"}, 3]),
        ("is_present('a.b') and not is_present('a.x')", True),
        ("getattr('a.x', 'none')", "none"),
        ("getattr('n')", 3),
        ("pathsplit('/~/data/scan.h5')", ["/~/data", "scan.h5"]),
        ("pathsplit('/~/scan.h5')[0]", "/~/"),
        ("len(a.b) if t else 0", 2),
        ("_context.run_id", "r1"),
    ],
)
def test_expressions_compute_with_the_document(expression, value):
    seen = {**DOCUMENT, "_context": {"run_id": "r1"}}
    check(expression)
    assert compute(expression, seen) == value
    assert evaluate({"x": [{"y.=": expression}]}, seen, compute) == {"x": [{"y": value}]}


@pytest.mark.parametrize(
    "expression", ["a.x", "n / 0", "unknown(1)", "__import__('os')", "a.b[9]", "'a' * 10**9", "n + 'a'", "9**9**9**9"]
)
def test_an_expression_without_a_value_is_named(expression):
    with pytest.raises(PathError, match="the expression"):
        compute(expression, DOCUMENT)


@pytest.mark.parametrize("expression", ["", " ", "1 +", "a b", 7, None])
def test_an_expression_that_is_none_is_refused(expression):
    with pytest.raises(PathError, match="the expression"):
        check(expression)


@pytest.mark.parametrize(
    ("rule", "truth"),
    [
        ({"Variable": "$.n", "NumericEquals": 3}, True),
        ({"Variable": "$.n", "NumericLessThan": 3}, False),
        ({"Variable": "$.t", "NumericEquals": 1}, False),
        ({"Variable": "$.t", "BooleanEquals": True}, True),
        ({"Variable": "$.n", "NumericGreaterThanEqualsPath": "$.a.b[0]"}, False),
        ({"Variable": "$.a.b[1]['c d']", "StringMatches": "t*t"}, True),
        ({"Variable": "$.when", "TimestampLessThan": "2026-01-02T05:04:05+01:00"}, True),
        ({"Variable": "$.missing", "IsPresent": False}, True),
        ({"Variable": "$.nothing", "IsNull": True}, True),
        ({"Variable": "$.n", "IsString": True}, False),
        ({"Not": {"Variable": "$.n", "NumericEquals": 3}}, False),
        ({"And": [{"Variable": "$.n", "IsNumeric": True}, {"Variable": "$.t", "IsBoolean": True}]}, True),
        ({"Or": [{"Variable": "$.n", "IsNull": True}, {"Variable": "$.t", "IsNull": True}]}, False),
    ],
)
def test_rules(rule, truth):
    assert holds(rule, DOCUMENT) is truth


def move(state, document=DOCUMENT, waited_s=0.0):
    return enter("S", state, document, run_id="r1", waited_s=waited_s)


def test_choice_takes_the_first_rule_that_holds_or_the_default():
    rules = [
        {"Variable": "$.n", "NumericEquals": 4, "Next": "four"},
        {"Variable": "$.n", "IsNumeric": True, "Next": "B"},
    ]
    assert move({"Type": "Choice", "Choices": rules}).following == "B"
    assert move({"Type": "Choice", "Choices": rules[:1], "Default": "C"}).following == "C"
    with pytest.raises(StepError, match="none of its rules holds"):
        move({"Type": "Choice", "Choices": rules[:1]})


def test_pass_wait_and_fail():
    passed = move({"Type": "Pass", "Parameters": {"id.$": "$._context.run_id"}, "ResultPath": "$.p", "End": True})
    assert passed.document["p"] == {"id": "r1"}
    assert passed.following is None
    assert "_context" not in passed.document
    sums = {"Type": "ExpressionEval", "Parameters": {"more.=": "n + 1"}, "ResultPath": "$.sums", "Next": "B"}
    assert move(sums).document["sums"] == {"more": 4}
    assert move({"Type": "Wait", "SecondsPath": "$.n", "Next": "B"}, waited_s=2.9) is None
    assert move({"Type": "Wait", "SecondsPath": "$.n", "Next": "B"}, waited_s=3.0).following == "B"
    assert move({"Type": "Wait", "Timestamp": "2026-01-01T00:00:00Z", "Next": "B"}).following == "B"
    assert move({"Type": "Wait", "Timestamp": "2999-01-01T00:00:00+00:00", "Next": "B"}) is None
    assert move({"Type": "Wait", "TimestampPath": "$.when", "Next": "B"}).following == "B"
    with pytest.raises(StepError, match="text"):
        move({"Type": "Fail", "ErrorPath": "$.when", "CausePath": "$.a.b[1]['c d']"})
    with pytest.raises(StepError, match="too cold") as caught:
        move({"Type": "Fail", "Error": "Weather", "Cause": "too cold"})
    assert caught.value.name == "Weather"
    with pytest.raises(StepError, match=r"S: \$\.missing leads nowhere"):
        move({"Type": "Pass", "InputPath": "$.missing", "End": True})
