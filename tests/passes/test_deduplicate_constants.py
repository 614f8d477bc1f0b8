"""deduplicate_constants: equal constants and expressions are kept once."""

import numpy as np
import onnx_ir as ir

from passes.deduplicate_constants import deduplicate_constants
from passes.options import Options


def test_equal_constants_and_expressions_are_kept_once(build, check, ops):
    b = build()
    x, values = b.input("x", [3, 4]), np.arange(4.0)
    y = b("Mul", b("Add", x, b.const(values)), b("Add", x, b.const(values)))
    result, report = check(b.model(y), "deduplicate_constants")
    assert (ops(result, "Add"), len(result.graph.initializer)) == (1, 1)
    assert report.passes[0].counts == {"constants": 1, "expressions": 1}


def test_a_constant_that_a_pass_left_transposed(build):
    b = build()
    model = ir.from_proto(b.model(b("Add", b.input("x", [3, 2]), b.normal(3, 2))))
    (value,) = model.graph.initializers.values()
    wanted = value.const_value.numpy()
    value.const_value = ir.tensor(np.ascontiguousarray(wanted.T).T, name=value.name)
    deduplicate_constants(model, Options())
    (value,) = model.graph.initializers.values()
    assert np.array_equal(value.const_value.numpy(), wanted)
