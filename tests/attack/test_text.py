"""Names and texts that would be code, if any of them reached a compiler, an assembler or a browser as they are."""

import ctypes
import html.parser
import importlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from compile.artifact.report.markup import tag
from compile.codegen.escape import c_comment, c_string, fill, identifier, xml
from compile.errors import CompileError
from compile.linking.link import find_toolchain, run_compiler
from compile.targets import find_target
from passes.errors import PassError
from tests.support.graphs import Builder

SECRET = "the builder's own file, which nobody may read"
CONSTRUCTOR = '__attribute__((constructor)) void f(void){{extern int creat(const char*,int);creat("{0}",511);}}'
PLAIN = ["a b", "a/b", "a.b", "a_b", "a-b"]  # one identifier between them
HOSTILE = [
    "*/ {code} /*",
    '"; {code} "',
    "\n{code}\n//",
    "\\\n*\\\n/ {code} /\\\n*",
    "??/\n*/ {code} /*",  # a trigraph for a backslash
    '*/__asm__(".incbin \\"{secret}\\"");/*',
    '.incbin "{secret}"',
    '\n#include "{secret}"\n',
    "@NAME@ @TENSORS@ {{name}} ${{NAME}} %s%n $(touch {ran}) `touch {ran}` ; touch {ran}",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "]]><!-- <?php -->",
    "é 模型 \U0001f600 \u202e\u2066 \u2028 \x01\x1b[2J\x7f\x9b",
    "?" * 9 + "\\101\\x41\\u0041\\N{{DEGREE SIGN}}",
    "x" * 5000,
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny: Callable) -> tuple[Path, list[str], list[str], Path]:
    """An artifact for this machine whose every name is hostile: its folder, the names, and the file that code makes."""
    place = tmp_path_factory.mktemp("text")
    ran, secret = place / "ran", place / "secret"
    secret.write_text(SECRET)
    facts = {"code": CONSTRUCTOR.format(ran), "secret": secret, "ran": ran}
    inputs = [*PLAIN, *(text.format(**facts) for text in HOSTILE)]
    outputs = [f"{name} out" for name in inputs]
    # Node names go through all passes; the file's own name into the library's, the manifest and the report.
    file = place / '*+ "$(touch ran)" <b>`模型`\n\\.onnx'
    onnx.save(tiny(inputs, outputs, node=inputs[5]), file)
    folder = compile.build(file, target="host", seq_len=4, out=place / "out", verify=True, dump=place / "dump").folder
    return folder, inputs, outputs, ran


def test_names_come_back_byte_for_byte_from_c_and_python(hostile: tuple) -> None:
    folder, inputs, outputs, _ = hostile

    class Info(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("type", ctypes.c_int32), ("rank", ctypes.c_int32),
                    ("shape", ctypes.c_int64 * 4), ("token_axis", ctypes.c_int32), ("low", ctypes.c_int64),
                    ("high", ctypes.c_int64), ("bytes", ctypes.c_size_t)]  # fmt: skip

    class Description(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("tokens", ctypes.c_int32), ("input_count", ctypes.c_int32),
                    ("inputs", ctypes.POINTER(Info)), ("output_count", ctypes.c_int32),
                    ("outputs", ctypes.POINTER(Info))]  # fmt: skip

    with compile.load(folder) as library:
        results = library.run({name: np.ones((1, 4, 16), np.float32) for name in inputs})
    assert list(results) == outputs
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["inputs"]] == inputs
    facts = Description(size=ctypes.sizeof(Description))
    getattr(ctypes.CDLL(str(folder / manifest["library"])), f"{manifest['name']}_describe")(ctypes.byref(facts))
    assert [facts.inputs[i].name.decode() for i in range(facts.input_count)] == inputs
    assert [facts.outputs[i].name.decode() for i in range(facts.output_count)] == outputs


def test_no_name_ran_or_brought_a_file_in(hostile: tuple) -> None:
    folder, _, _, ran = hostile
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(next(folder.glob("*.so")))], check=True, timeout=60)
    assert not ran.exists()
    assert not any(SECRET.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(("suffix", "standard"), [(".c", ["-std=c11", "-trigraphs"]), (".cpp", ["-std=c++17"])])
def test_header_of_hostile_names_compiles_without_a_warning(
    suffix: str, standard: list[str], hostile: tuple, tmp_path: Path
) -> None:
    header = next(f for f in (hostile[0] / "include").iterdir() if not f.name.startswith("pocketbert"))
    assert header.read_bytes().isascii()
    source = tmp_path / f"user{suffix}"
    source.write_text(f'#include "{header.name}"\n')
    arguments = [*standard, "-Wall", "-Wextra", "-Werror", "-I", str(header.parent), "-c", str(source), "-o", "user.o"]
    run_compiler(find_toolchain(find_target("host")), arguments, tmp_path)


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found += [tag, *(f"{tag} {name}" for name, _ in attributes)]


def test_report_of_hostile_names_has_only_our_elements(hostile: tuple) -> None:
    text = (hostile[0] / "report.html").read_text()
    elements = Elements(text).found
    assert elements.count("script") == 1
    assert not {"img", "b onerror", "img onerror"} & set(elements)
    assert not [name for name in elements if " on" in name]
    assert not {"\u202e", "\u2066", "\x1b", "\x01"} & set(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_of_any_text_is_one_element(text: str) -> None:
    made = tag("p", text, "'\"<&", title=text, data_words="'\"<&")
    assert Elements(made).found == ["p", "p title", "p data-words"]


def test_pieces_of_a_vocabulary_come_back_as_they_were(tiny: Callable, tmp_path: Path) -> None:
    pieces = ["[UNK]", "[CLS]", "[SEP]", '"*/', "\\", "??/", ".incbin", "</script>", "模型", "\x01", "`", "$(x)", "%s"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    model = tiny(["input_ids"])
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, [1, 4]))
    table = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32), "table")
    model.graph.initializer.append(table)
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["table", "input_ids"], ["x"], axis=0))
    model.graph.node[1].input[0] = "x"
    onnx.save(model, tmp_path / "m.onnx")
    out = compile.build(tmp_path / "m.onnx", target="host", seq_len=4, vocab=tmp_path / "vocab.txt", out=tmp_path / "o")
    with compile.load(out.folder) as library:
        assert [library.token(number) for number in range(len(pieces))] == pieces


def test_labels_of_any_text_come_back_from_the_library_and_from_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, labels = Builder(), [text.format(code="x", secret="y", ran=tmp_path / "ran") for text in HOSTILE]
    first = b("Gather", b("Gather", b.normal(9, 16), b.input("input_ids", [1, 4], 7)), b.const(np.array(0)), axis=1)
    b("MatMul", first, b.normal(16, len(labels)))
    b.nodes[-1].output[0] = "logits"
    onnx.save(b.model("logits"), tmp_path / "m.onnx")
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na")
    given = {"vocab": tmp_path / "vocab.txt", "task": "classify", "labels": labels, "package": "wheel"}
    folder = compile.build(tmp_path / "m.onnx", target="host", seq_len=4, out=tmp_path / "o", **given).folder
    elements = Elements((folder / "report.html").read_text()).found
    assert not {"img", "img onerror"} & set(elements)
    assert elements.count("script") == 1
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with compile.load(folder) as library, importlib.import_module("m").load() as other:
        assert [*library.manifest.labels] == [*other.manifest.labels] == labels
        assert {label.name for label in library.classify("a")} == {*labels}
        assert [tuple(label) for label in other.classify("a")] == [tuple(label) for label in library.classify("a")]
    assert not (tmp_path / "ran").exists()


def test_name_with_a_nul_is_refused(tiny: Callable, tmp_path: Path) -> None:
    onnx.save(tiny(["a\0b"]), tmp_path / "m.onnx")
    with pytest.raises(CompileError, match="NUL"):
        compile.build(tmp_path / "m.onnx", target="host", seq_len=4, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_name_that_is_not_utf8_is_refused(tiny: Callable, tmp_path: Path) -> None:
    data = tiny(["QQ"]).SerializeToString().replace(b"QQ", b"\xff\xfe")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(PassError, match="not UTF-8"):
        compile.build(tmp_path / "m.onnx", target="host", seq_len=4, out=tmp_path / "o")


def test_input_that_nothing_reads_keeps_the_names_in_step(tiny: Callable, tmp_path: Path) -> None:
    model = tiny(["a.b", "a/b", "a_b"], ["y"])
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("MatMul", ["a_b", "w0"], ["y"]))
    onnx.save(model, tmp_path / "m.onnx")
    folder = compile.build(tmp_path / "m.onnx", target="host", seq_len=4, out=tmp_path / "o", verify=True).folder
    with compile.load(folder) as library:
        assert [entry.name for entry in library.manifest.inputs] == ["a.b", "a/b", "a_b"]


@pytest.mark.parametrize("text", ["", "a", "*/", '"\\\n', "??/", "\x7f\xff", "é1", "\x011"])
def test_c_string_is_the_text(text: str) -> None:
    written = c_string(text)
    assert not set(written[1:-1]) & set('"*?@\n\x7f')
    assert re.sub(rb"\\(\d{3})", lambda m: bytes([int(m[1], 8)]), written[1:-1].encode("ascii")) == text.encode()


def test_comment_is_one_line_and_not_endless() -> None:
    assert c_comment("a*/\n" * 100).count("*/") == 0
    assert len(c_comment("é" * 1000)) < 1000


def test_words_of_other_languages_are_identifiers() -> None:
    for name in ("a b", "", "1a", "a;", "é", "a\n", "a-b", "${x}"):
        with pytest.raises(CompileError, match="identifier"):
            identifier(name)


def test_what_is_filled_into_a_template_is_not_a_template() -> None:
    assert fill("@A@ @B@", {"A": "@B@", "B": "@A@"}) == "@B@ @A@"


def test_xml_shows_what_would_be_invisible() -> None:
    assert xml("<\u202e\x00\ud800&'\">é模") == "&lt;\\u202e\\x00\\ud800&amp;&#x27;&quot;&gt;é模"
