"""tidy: names after nodes, nothing unused, the same bytes again."""

import passes


def test_values_are_named_after_their_nodes_and_equal_names_get_numbers(build, check):
    b = build()
    y = b("Relu", b.input("x", [2, 4]), name="act")
    z = b("Tanh", y, name="act#7")
    b("Exp", y, name="unused")
    model = b.model(b("Neg", z, name="last"))
    output = model.graph.output[0].name
    result, _ = check(model, "tidy")
    assert [node.name for node in result.graph.node] == ["act", "act#2", "last"]
    assert [node.output[0] for node in result.graph.node] == ["act", "act#2", output]


def test_what_an_exporter_left_goes_and_a_second_run_changes_nothing(build):
    b = build()
    model = b.model(b.linear(b.input("x", [2, 4]), 4, 4))
    model.producer_name, model.doc_string = "exporter", "words"
    model.graph.node[0].doc_string = "a stack trace"
    first, _ = passes.run(model, only=["tidy"])
    again, _ = passes.run(first, only=["tidy"])
    assert (first.producer_name, first.doc_string, first.graph.node[0].doc_string) == ("pocketbert.passes", "", "")
    assert again.SerializeToString() == first.SerializeToString()


def test_where_nothing_is_to_be_done_nothing_is_counted(build):
    b = build()
    _, report = passes.run(
        b.model(b("Tanh", b.input("x", [2, 4]), name="act")), options=passes.Options(quantize="int8")
    )
    assert {entry.name: entry.applied for entry in report.passes if entry.applied} == {}
    assert not any(entry.refusals for entry in report.passes)
