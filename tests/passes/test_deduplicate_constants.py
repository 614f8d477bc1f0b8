"""deduplicate_constants: equal constants and expressions are kept once."""

import numpy as np


def test_equal_constants_and_expressions_are_kept_once(build, check, ops):
    b = build()
    x, values = b.input("x", [3, 4]), np.arange(4.0)
    y = b("Mul", b("Add", x, b.const(values)), b("Add", x, b.const(values)))
    result, report = check(b.model(y), "deduplicate_constants")
    assert (ops(result, "Add"), len(result.graph.initializer)) == (1, 1)
    assert report.passes[0].counts == {"constants": 1, "expressions": 1}
