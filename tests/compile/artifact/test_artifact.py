"""What lies in an artifact folder: an ELF file by Android's rules, a header for C and C++, a truthful manifest."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from elftools.elf.elffile import ELFFile

import compile
from compile.codegen.escape import library_name
from compile.linking import library_rules
from compile.linking.library_rules import check_library
from compile.linking.link import WARNINGS
from compile.runtime import INCLUDE, SRC
from compile.targets import TARGETS, find_target

ANDROID = TARGETS["arm64-android"]
PUBLIC = {"abi_version", "open", "run", "close", "last_error", "describe", "profile", "functions"}
PUBLIC |= {"tokenize", "run_text", "token", "encode", "label", "classify", "embed", "entities", "fill"}
PUBLIC |= {"answer", "classify_all", "embed_all", "convert", "cosine"}


@pytest.fixture(params=["android", "linux", "host"])
def artifact(request: pytest.FixtureRequest, mobilebert_android: Path, mobilebert_library: Path, exported: Callable,
             compiled: Callable) -> Path:  # fmt: skip
    if request.param == "linux":
        return compiled(exported("mobilebert-tiny", seq_len=16), "arm64-linux", seq_len=16)
    return mobilebert_android if request.param == "android" else mobilebert_library


def manifest(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "manifest.json").read_text())


def dynamic(elf: ELFFile) -> dict[str, list[Any]]:
    entries: dict[str, list[Any]] = {}
    for tag in elf.get_section_by_name(".dynamic").iter_tags():
        value = getattr(tag, "needed", getattr(tag, "soname", tag.entry.d_val))
        entries.setdefault(tag.entry.d_tag, []).append(value)
    return entries


def test_elf_file_by_the_rules(artifact: Path) -> None:
    facts = manifest(artifact)
    target = TARGETS[facts["target"]]
    with (artifact / facts["library"]).open("rb") as file:
        elf = ELFFile(file)
        entries = dynamic(elf)
        assert elf["e_type"] == "ET_DYN"
        assert elf["e_machine"] == {"aarch64": "EM_AARCH64", "x86_64": "EM_X86_64"}[target.arch]
        assert entries["DT_SONAME"] == [facts["library"]]
        assert set(entries["DT_NEEDED"]) <= {target.libc, target.libm}
        assert "/" not in "".join(entries["DT_NEEDED"])
        assert not {"DT_TEXTREL", "DT_RPATH", "DT_RUNPATH"} & set(entries)
        assert "DT_GNU_HASH" in entries
        for segment in elf.iter_segments():
            if segment["p_type"] == "PT_LOAD":
                assert segment["p_align"] >= 16384
                assert segment["p_offset"] % 16384 == segment["p_vaddr"] % 16384
                assert segment["p_flags"] & 3 != 3, "writable and executable"
            if segment["p_type"] == "PT_GNU_STACK":
                assert not segment["p_flags"] & 1
        symbols = [s for s in elf.get_section_by_name(".dynsym").iter_symbols() if s.name]
        exports = {s.name for s in symbols if s["st_shndx"] != "SHN_UNDEF"}
        assert exports == {"JNI_OnLoad", *(f"{facts['name']}_{f}" for f in PUBLIC)}
        assert elf.get_section_by_name(".symtab") is None
        assert elf.get_section_by_name(".debug_info") is None


def test_weights_are_in_pages_that_are_only_read(artifact: Path) -> None:
    facts = manifest(artifact)
    with (artifact / facts["library"]).open("rb") as file:
        loads = [s for s in ELFFile(file).iter_segments() if s["p_type"] == "PT_LOAD"]
    holding = [s for s in loads if s["p_filesz"] >= facts["sizes"]["weights_bytes"]]
    assert len(holding) == 1
    assert not holding[0]["p_flags"] & 2


def test_size_is_the_weights(artifact: Path) -> None:
    sizes = manifest(artifact)["sizes"]
    code = sizes["library_bytes"] - sizes["weights_bytes"]
    # Two layers have the kernels of 24: so much code would be 3 % of those.
    assert 0 < code < 0.03 * 98e6
    assert sizes["library_bytes"] == (artifact / manifest(artifact)["library"]).stat().st_size


def test_manifest_says_what_is_there(artifact: Path, exported: Callable) -> None:
    facts = manifest(artifact)
    beside = {"include", "cmake", "manifest.json", "report.html"}
    assert {p.name for p in artifact.iterdir()} == {facts["library"], *beside}
    assert (artifact / facts["header"]).is_file()
    present = {p.relative_to(artifact).as_posix() for p in artifact.rglob("*") if p.is_file()}
    assert set(facts["files"]) == present - {"manifest.json"}  # which cannot hold its own digest
    assert facts["sha256"] == hashlib.sha256((artifact / facts["library"]).read_bytes()).hexdigest()
    assert facts["checked"]
    assert facts["versions"]["apache-tvm"].startswith("0.27")
    assert {p["name"] for p in facts["passes"]["passes"]} >= {"fold_nonorm", "fuse_bottleneck_linears"}
    for kernel in facts["kernels"]:
        assert kernel["calls"] > 0
        assert kernel["family"] != "linear" or re.fullmatch(r"\d+x\d+", kernel["tile"])
        assert kernel.get("tile", "") in kernel["name"]
    assert facts["flops"] == sum(k["flops"] for k in facts["kernels"])
    assert len(facts["generic_kernels"]) == sum(k["calls"] for k in facts["kernels"] if k["family"] == "generic")
    assert 0 < facts["sizes"]["arena_bytes"] < facts["sizes"]["tensors_bytes_without_sharing"]


def test_inputs_and_outputs_are_the_models(mobilebert: Path, mobilebert_library: Path) -> None:
    facts, graph = manifest(mobilebert_library), onnx.load(mobilebert).graph
    for kind, values in (("inputs", graph.input), ("outputs", graph.output)):
        for entry, value in zip(facts[kind], values, strict=True):
            assert entry["name"] == value.name
            assert entry["shape"] == [d.dim_value for d in value.type.tensor_type.shape.dim]
    assert [entry.get("range") for entry in facts["inputs"]] == [[0, 1000], None, [0, 2]]


def test_same_input_same_library(graph: type, tmp_path: Path) -> None:
    b = graph()
    onnx.save(b.model(b.attention(b.input("x", [1, 8, 16]), 8, 2, 8)), tmp_path / "m.onnx")
    one, two = (
        compile.build(tmp_path / "m.onnx", target="arm64-android", seq_len=8, out=tmp_path / name).manifest.sha256
        for name in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mobilebert", "mobilebert"),
        ("MobileBERT w/o OPT", "mobilebert_w_o_opt"),
        ("7b", "m_7b"),
        ("pocketbert", "m_pocketbert"),
        ("pb", "m_pb"),
        ("string", "m_string"),  # string.h would be found in place of libc's
        ("sem", "m_sem"),  # sem_open is libc's
        ("…", "model_b4935894"),
        ("模型", "model_c98e118e"),
        ("a" * 300, "a" * 55 + "_9835fa6b"),
    ],
)
def test_library_name_is_a_c_identifier(text: str, name: str) -> None:
    assert library_name(text) == name
    assert name.isidentifier()
    assert library_name(name) == name


@pytest.mark.parametrize(
    ("patch", "rule"),
    [({"PAGE": 1 << 30}, "aligned"), ({"name": "other"}, "SONAME"), ({"target": "x86_64-linux"}, "machine")],
)
def test_check_names_the_rule_that_is_broken(
    patch: dict[str, Any], rule: str, mobilebert_android: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_rules, "PAGE", patch.get("PAGE", library_rules.PAGE))
    target, library = find_target(patch.get("target", "arm64-android")), mobilebert_android / "libmobilebert.so"
    with pytest.raises(compile.CompileError, match=rule):
        check_library(library, target, patch.get("name", "mobilebert"))


# --- C


def zig(*arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"), [("cc", "c11", "c"), ("cc", "c23", "c"), ("c++", "c++17", "cpp")]
)
def test_header_compiles_as_c_and_as_cpp(
    compiler: str, standard: str, suffix: str, mobilebert_library: Path, tmp_path: Path
) -> None:
    source = tmp_path / f"use.{suffix}"
    source.write_text(
        '#include "mobilebert.h"\n#include "mobilebert.h"\n#include "pocketbert_loader.h"\n'
        "int use(pocketbert_model **model) { return mobilebert_open(NULL, model) == POCKETBERT_OK; }\n"
    )
    options = [f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-D_GNU_SOURCE", "-c"]
    options += ["-I", str(mobilebert_library / "include")]
    zig(compiler, *options, str(source), "-o", str(tmp_path / "use.o"), folder=tmp_path)


def test_header_describes_the_model(mobilebert_library: Path) -> None:
    text = (mobilebert_library / "include" / "mobilebert.h").read_text()
    for line in ("input_ids: int64 [1, 128], 0 <= id < 1000", "last_hidden_state: float32 [1, 128, 512]"):
        assert line in text
    assert "@" not in text
    for function in PUBLIC:
        assert re.search(rf"\*/\n[a-z0-9_ ]+\*?mobilebert_{function}\(", text), f"{function} has no comment"


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: Debian package clang")
@pytest.mark.parametrize("vocabulary", [None, False, True], ids=["ids", "uncased", "cased"])
@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "x86_64-linux-gnu"])
def test_c_has_no_warnings_under_another_compiler(
    target: str, vocabulary: bool | None, exported: Callable, tmp_path: Path
) -> None:
    """The runtime and the generated plan; every build with zig has the same warnings on."""
    from compile.codegen.plan_source import plan_source
    from compile.codegen.vocabulary import write_vocabulary
    from compile.importer.graph import import_model
    from compile.lowering.lower import lower
    from compile.planning.plan import make_plan
    from compile.text.read import read_vocabulary

    spec = find_target("arm64-android" if "aarch64" in target else "x86_64-linux")
    program = lower(import_model(onnx.load(exported("mobilebert-tiny", seq_len=16)), 16), 16, spec.isa)
    (tmp_path / "plan.c").write_text(plan_source(make_plan(program, spec), 0))
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
    side = None if vocabulary is None else read_vocabulary(tmp_path / "vocab.txt", vocabulary)
    generated = write_vocabulary(side, ["PB_TEXT_IDS"], tmp_path)
    includes = [f"-I{path}" for path in (tmp_path, SRC, INCLUDE)]
    for source in [*SRC.glob("*.c"), *generated, tmp_path / "plan.c"]:
        command = ["clang", f"--target={target}", "-ffreestanding", "-fsyntax-only", "-O2", *WARNINGS, *includes]
        command.append("-DPB(x)=pb_##x")
        done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert {"-Wall", "-Wextra", "-Werror"} <= set(WARNINGS)
