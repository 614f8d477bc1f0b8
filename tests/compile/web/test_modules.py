"""WebAssembly modules, in Node.js: what they compute, what they refuse, and what a browser would refuse of them."""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile import CompileError
from compile.linking.module_rules import check_module
from compile.running.load import read_manifest
from compile.running.runners import node
from compile.running.samples import full_sample, random_samples
from passes.verify import run_model
from pocketbert.numerics import relative_error
from tests.support.chromium import CHROMIUM

TOKENS = 24

needs_node = pytest.mark.skipif(bool(node.missing()), reason=f"needs {node.NEEDED}")


@pytest.fixture(scope="module")
def built(exported: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """built(target, precision): an artifact of two layers of MobileBERT."""
    made: dict[tuple[str, str], Path] = {}

    def make(target: str, precision: Any) -> Path:
        if (target, precision) not in made:
            out = tmp_path_factory.mktemp("web") / "mobilebert"
            made[target, precision] = compile.build(
                exported("mobilebert", seq_len=TOKENS), target=target, precision=precision, seq_len=TOKENS, db="none",
                out=out, threads=1,
            ).folder  # fmt: skip
        return made[target, precision]

    return make


def script(artifact: Path, body: str) -> Any:
    """What JavaScript with the artifact's `load` and `model` at hand prints as JSON."""
    text = f'import {{ load, PocketBERTError }} from "{artifact}/index.js";\nconst model = await load();\n{body}'
    command = [*(node.command() or []), "--input-type=module", "-e", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: Debian package chromium")
def test_the_benchmark_measures_both_precisions_in_a_page(
    built: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # of which a benchmark replaces the first
    from benchmarks import web

    for precision in ("float32", "int8"):
        (tmp_path / precision).symlink_to(built("wasm32", precision), target_is_directory=True)
    sample = full_sample(read_manifest(tmp_path / "int8"))
    (tmp_path / "inputs.json").write_text(
        json.dumps({name: values.ravel().tolist() for name, values in sample.items()})
    )
    times = web.in_page(tmp_path, argparse.Namespace(peer=None, runs=2, turns=2))
    assert [name.partition(" (")[0] for name in times] == ["PocketBERT, float32", "PocketBERT, int8"]
    assert all(len(values) == 4 and min(values) > 0 for values in times.values())


@needs_node
@pytest.mark.parametrize("level", ["simd128", "relaxed-simd", "relaxed-dot"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_module_computes_what_a_library_computes(
    precision: str, level: str, built: Callable, exported: Callable
) -> None:
    """float32 as ONNX Runtime does; int8, whose sums are whole numbers, as the library for this machine."""
    artifact = built("wasm32", precision)
    if level not in node.levels(artifact):
        pytest.skip(f"not a level of this model and this Node.js: {level}")
    facts = read_manifest(artifact)
    samples = random_samples(facts, 2, seed=3)
    with node.NodeRunner(level) as runner:
        got, where = runner.outputs(artifact / facts.library, facts, samples)
    assert level in where
    if precision == "float32":
        import onnx

        wanted = run_model(onnx.load(exported("mobilebert", seq_len=TOKENS)), samples)
        assert max(relative_error(g, w) for g, w in zip(got, wanted, strict=True)) < 1e-4
        return
    with compile.load(built("host", precision), threads=1) as library:
        for sample, outputs in zip(samples, got, strict=True):
            assert max(relative_error(outputs, library.run(sample)), 0.0) < 1e-6


@needs_node
def test_shorter_sequences_run_at_their_own_length(built: Callable) -> None:
    ids = np.random.default_rng(5).integers(0, 1000, 7)
    body = f"""
    const ids = {ids.tolist()}, ones = ids.map(() => 1), zeros = ids.map(() => 0);
    const {{ last_hidden_state }} = model.run({{ input_ids: ids, attention_mask: ones, token_type_ids: zeros }});
    console.log(JSON.stringify([last_hidden_state.shape, Array.from(last_hidden_state.data)]));"""
    shape, data = script(built("wasm32", "float32"), body)
    assert shape == [1, 7, 512]
    names = ("input_ids", "attention_mask", "token_type_ids")
    with compile.load(built("host", "float32"), threads=1) as library:
        wanted = library.run(dict(zip(names, (ids[None], np.ones((1, 7), int), np.zeros((1, 7), int)), strict=True)))
    got = {"last_hidden_state": np.array(data, np.float32).reshape(shape)}
    assert relative_error(got, {"last_hidden_state": wanted["last_hidden_state"]}) < 1e-5


@needs_node
def test_what_is_wrong_is_refused_with_a_code_and_the_model_goes_on(built: Callable) -> None:
    body = """
    const good = { input_ids: [1, 2], attention_mask: [1, 1], token_type_ids: [0, 0] };
    const before = model.run(good).pooler_output.data;
    const tries = [
      () => model.run({ ...good, input_ids: undefined }),
      () => model.run({ ...good, input_ids: [1, 1000000] }),
      () => model.run({ ...good, attention_mask: [1, 1, 1] }),
      () => model.run({ input_ids: [], attention_mask: [], token_type_ids: [] }),
      () => model.runText("no vocabulary"),
      () => model.classify(3),
    ];
    const seen = tries.map((work) => {
      try { work(); } catch (error) { return [error instanceof PocketBERTError, error.code, error.message]; }
      return [false, 0, "it worked"];
    });
    const same = model.run(good).pooler_output.data.every((value, i) => value === before[i]);
    model.close();
    try { model.run(good); } catch (error) { seen.push([error instanceof PocketBERTError, error.code, error.message]); }
    console.log(JSON.stringify([same, seen]));"""
    same, seen = script(built("wasm32", "float32"), body)
    assert same
    assert all(ours for ours, _, _ in seen)
    assert [code for _, code, _ in seen] == [1, 3, 2, 2, 9, 1, 1]
    assert "input_ids is missing" in seen[0][2]


@needs_node
def test_a_thousand_runs_take_no_more_memory_than_a_few(built: Callable) -> None:
    body = """
    const memory = () => process.memoryUsage().arrayBuffers;
    const run = (n) => {
      const [ones, zeros] = [1, 0].map((value) => Array(n).fill(value));
      model.run({ input_ids: ones, attention_mask: ones, token_type_ids: zeros });
    };
    for (let i = 0; i < 5; i++) run(3);
    const few = memory();
    for (let i = 0; i < 1000; i++) run(1 + (i % 3));
    console.log(JSON.stringify([few, memory()]));"""
    few, many = script(built("wasm32", "int8"), body)
    assert many <= few + (8 << 20)


def test_a_folder_holds_what_its_script_asks_for(built: Callable) -> None:
    artifact = built("wasm32", "int8")
    package = json.loads((artifact / "package.json").read_text())
    modules = ["mobilebert-relaxed-dot.wasm", "mobilebert-relaxed-simd.wasm", "mobilebert.wasm"]
    assert package["files"] == ["index.js", "index.d.ts", *modules, "mobilebert.weights"]
    assert all((artifact / file).is_file() for file in (*package["files"], package["main"]))
    script = (artifact / "index.js").read_text() + (artifact / "index.d.ts").read_text()
    assert not re.findall("@[A-Z]+@", script)
    assert all(module in script for module in modules)
    assert not (artifact / "include").exists()


@needs_node
def test_weights_that_are_cut_or_another_models_are_refused(built: Callable) -> None:
    body = """
    import { readFileSync } from "node:fs";
    const weights = readFileSync(new URL("mobilebert.weights", "FOLDER/"));
    const seen = [];
    for (const given of [weights.subarray(0, 1000), new Uint8Array(weights.length + 1)])
      await load({ weights: given }).catch((error) => seen.push(error.message));
    await load({ level: "none" }).catch((error) => seen.push(error.message));
    const shared = await load({ level: "simd128", weights });
    const good = { input_ids: [1, 2], attention_mask: [1, 1], token_type_ids: [0, 0] };
    const same = shared.level === "simd128" && shared.run(good).pooler_output.data.length;
    console.log(JSON.stringify([seen, same]));"""
    artifact = built("wasm32", "int8")
    (cut, longer, level), outputs = script(artifact, body.replace("FOLDER", artifact.as_uri()))
    assert "has 1000 bytes" in cut
    assert "another model's" in longer
    assert "does not run none, but" in level
    assert outputs == 512


@needs_node
@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm (Debian package npm)")
def test_npm_installs_the_package(exported: Callable, tmp_path: Path) -> None:
    """Under the name and version that were asked for; what was installed runs, and says under what licence it is."""
    made = compile.build(
        exported("mobilebert", seq_len=TOKENS), target="wasm32", precision="int8", seq_len=TOKENS, db="none",
        out=tmp_path / "out", package="npm", name="my_model", version="1.2", cpu="wasm-simd128",
    )  # fmt: skip
    assert made.manifest.package
    archive = made.folder / made.manifest.package.file
    assert archive.name == "my-model-1.2.0.tgz"
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    options = ["--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--cache", str(tmp_path / "cache")]
    subprocess.run(["npm", "install", *options, str(archive)], cwd=tmp_path / "app", check=True, capture_output=True)
    installed = tmp_path / "app" / "node_modules" / "my-model"
    package = json.loads((installed / "package.json").read_text())
    assert (package["version"], package["license"], "private" in package) == ("1.2.0", "Apache-2.0", False)
    assert {path.name for path in installed.iterdir()} == {*package["files"], "package.json", "README.md", "LICENSE"}
    program = """import { load } from "my-model"; const model = await load(); console.log(model.inputs.length)"""
    command = [*(node.command() or []), "--input-type=module", "-e", program]
    assert subprocess.run(command, cwd=tmp_path / "app", check=True, capture_output=True).stdout == b"3\n"


TYPED = """
import { Facts, Label, levels, load, Model, PocketBERTError, Tensor } from "my-model";

export async function use(weights: Uint8Array): Promise<void> {
  const model: Model = await load({ level: levels()[0], weights, progress: (bytes, all) => console.log(bytes / all) });
  const labels: Label[] = model.classify("a", "b", { longText: "windows", allow: ["good"], top: 1 });
  const masks: Label[][] & { overflow: number } = model.fill("[MASK]");
  const facts: Facts = model.facts;
  const sources: string[] | undefined = facts.vocabulary?.settings.map(({ name, source }) => `${name}: ${source}`);
  const tensors: Record<string, Tensor> = model.runText("a");
  const code: number = new PocketBERTError().code;
  // @ts-expect-error
  model.classify("a", "b", { longText: "cut" });
  // @ts-expect-error
  model.labels = [];
  // @ts-expect-error
  await load({ level: "simd64" });
  // @ts-expect-error
  model.guess("a");
}
"""


@pytest.mark.skipif(not shutil.which("tsc"), reason="needs TypeScript: Debian package node-typescript")
def test_types_are_those_of_the_page_and_of_a_strict_program(built: Callable, tmp_path: Path) -> None:
    """The page's code and a program that uses the rest, and what it must not do."""
    (code,) = re.findall(r"```js\n(.*?)```", (Path(__file__).parents[3] / "docs" / "web.md").read_text(), re.DOTALL)
    (tmp_path / "page.mts").write_text(code)
    (tmp_path / "typed.mts").write_text(TYPED)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "my-model").symlink_to(built("wasm32", "int8"))
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext"]
    done = subprocess.run(["tsc", *options, "page.mts", "typed.mts"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stdout.decode()


@needs_node
def test_every_method_has_its_type(built: Callable) -> None:
    artifact = built("wasm32", "int8")
    names = script(artifact, "console.log(JSON.stringify(Object.getOwnPropertyNames(Object.getPrototypeOf(model))));")
    declared = (artifact / "index.d.ts").read_text().partition("export class Model {")[2].partition("\n}")[0]
    assert {"constructor", *re.findall(r"^  (\w+)\(", declared, re.MULTILINE)} == set(names)
    own = script(artifact, "console.log(JSON.stringify(Object.keys(model)));")
    assert set(re.findall(r"^  readonly (\w+):", declared, re.MULTILINE)) == set(own)


def test_rules_of_a_module(built: Callable, tmp_path: Path) -> None:
    artifact = built("wasm32", "int8")
    rules = check_module(artifact / "mobilebert.wasm", "mobilebert")
    assert "imports nothing but pocketbert.now" in rules
    with pytest.raises(CompileError, match=r"exports only other_\*"):
        check_module(artifact / "mobilebert.wasm", "other")
    header = b"\0asm\x01\0\0\0"
    no_exports = b"\x07\x0a\x01\x06memory\x02\x00"
    clock = b"\x02\x12\x01\x0apocketbert\x03now\x00\x00"
    for sections, rule in (
        (b"\x7fELF", "WebAssembly, version 1"),
        (header + no_exports + clock.replace(b"now", b"fd_"), "imports nothing but"),
        (header + no_exports + clock + b"\x08\x01\x00", "runs nothing"),
        (header + clock, "exports only"),
    ):
        (tmp_path / "m.wasm").write_bytes(sections)
        with pytest.raises(CompileError, match=rule):
            check_module(tmp_path / "m.wasm", "m")
    (tmp_path / "m.wasm").write_bytes(header + no_exports + clock)
    assert len(check_module(tmp_path / "m.wasm", "m")) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"package": "wheel"}, "--package wheel: wasm32 libraries do not go into one; choose --package npm"),
        ({"package": "npm", "version": "1.2.3.4"}, "--version 1.2.3.4: npm takes three numbers"),
        ({"package": "npm", "target": "host"}, "--package npm: x86_64-linux libraries do not go into one"),
        ({"sanitize": "address"}, "wasm32 libraries do not run on this machine"),
        ({"cpu": "cortex-a76"}, "unknown CPU 'cortex-a76' for target wasm32: choose one of wasm-simd128"),
    ],
)
def test_what_the_web_has_not_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=message):
        compile.build("mobilebert", **{"target": "wasm32", "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
