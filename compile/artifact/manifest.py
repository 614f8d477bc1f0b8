"""`manifest.json`: what an artifact is and how it was made, as dataclasses that are checked when they are read.

A `Manifest` is built once, when everything in it is known, written sealed with its own sha256, and never patched:
`dataclasses.replace` makes another. On disk it is JSON in the order of the fields; what is None is left out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from compile.artifact.signature import SIGNATURE, require_signature
from compile.cpus import CPUS
from compile.databases import TuningSummary
from compile.errors import CompileError
from compile.targets import TARGETS
from compile.text.side import Kind
from passes.report import Report
from pocketbert.reading import parse_json, read_text
from pocketbert.typed import Check, typed

FORMAT = 3
FILE = "manifest.json"
WIDTH = 240  # of a line, where a value is not one by itself
PACKAGES = ("pocketbert", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxsim", "onnxruntime", "ziglang", "numpy")


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return str(parts) == path != "." and path.isprintable() and not (parts.is_absolute() or ".." in parts.parts)


Count = Annotated[int, Check(lambda v: 0 < v < 1 << 31, "a number from 1 to 2³¹ − 1")]
Natural = Annotated[int, Check(lambda v: 0 <= v < 1 << 53, "a number from 0 to 2⁵³ − 1")]
Name = Annotated[str, Check(lambda v: v.isascii() and v.isidentifier(), "a C identifier")]
Digest = Annotated[str, Check(lambda v: re.fullmatch("[0-9a-f]{64}", v) is not None, "64 hex digits")]
Inside = Annotated[str, Check(_is_inside, "a path inside the artifact")]
FileName = Annotated[Inside, Check(lambda v: "/" not in v, "the name of a file")]
TargetName = Annotated[str, Check(lambda v: v in TARGETS, "a known target")]
CpuName = Annotated[str, Check(lambda v: v in CPUS, "a known CPU")]
Shape = Annotated[tuple[Count, ...], Check(lambda v: len(v) <= 4 and math.prod(v) < 1 << 40, "a shape of rank 0 to 4")]
IdRange = Annotated[tuple[int, int], Check(lambda v: v[0] < v[1], "low < high")]
Dtype = Literal["float32", "int64", "int32", "bool"]
Precision = Literal["float32", "int8"]
Part = tuple[Natural, Natural, Natural]


@dataclass(frozen=True)
class Tensor:
    """An in- or output. token_axis: the one that may have any length up to the shape's; range: low ≤ id < high."""

    name: str
    shape: Shape
    dtype: Dtype
    token_axis: Natural | None = None
    range: IdRange | None = None

    def shape_for(self, tokens: int, sequences: int = 0) -> tuple[int, ...]:
        """The shape for sequences of `tokens`, as far as it depends on that; 0: for as many as its own says."""
        shape = tuple(tokens if axis == self.token_axis else size for axis, size in enumerate(self.shape))
        return (sequences, *shape[1:]) if sequences else shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * {"float32": 4, "int32": 4, "int64": 8, "bool": 1}[self.dtype]


@dataclass(frozen=True)
class Level:
    """A CPU that the library has kernels for: what it must have, and the CPU whose kernels it runs."""

    cpu: CpuName
    features: tuple[str, ...]
    kernels_for: CpuName


@dataclass(frozen=True)
class Sizes:
    """Bytes; tensors: what temporaries would take if none shared memory."""

    library_bytes: Natural
    weights_bytes: Natural
    arena_bytes: Natural
    scratch_bytes_per_row: Natural
    workspace_bytes_per_thread: Natural
    tensors_bytes_without_sharing: Natural


@dataclass(frozen=True)
class Tiling:
    """What a kernel's tile is chosen by (K and N of a linear; head size and tokens of an attention), and the tile."""

    k: Count
    n: Count
    mr: Count
    nr: Count
    k_unroll: Count


@dataclass(frozen=True)
class Kernel:
    """A kernel, how often a run calls it, and the FLOPs (2 × multiply-adds) that all its calls do."""

    name: str
    description: str
    family: str
    precision: Precision
    calls: Natural
    rows_shared_by_threads: bool
    flops: Natural
    tile: str | None = None
    tiling: Tiling | None = None


@dataclass(frozen=True)
class GenericKernel:
    """An operator that no kernel family takes, and why."""

    operator: str
    reason: str


@dataclass(frozen=True)
class KeptInFloat:
    """A layer that stays in float32 in an int8 library. snr_db: signal to noise of its outputs in int8, if measured."""

    layer: str
    reason: str
    snr_db: float | None = None


@dataclass(frozen=True)
class Call:
    """A kernel call; its number is its place in the list. bytes: all it reads and writes for the longest sequence.

    reads and writes: a tensor's number, its first column and how many. Weights are counted in `bytes` only.
    """

    kernel: str
    layer: str
    stage: Natural
    shared: bool
    rows: Natural
    flops: Natural
    bytes: Natural
    reads: tuple[Part, ...]
    writes: tuple[Part, ...]


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lives: offset and bytes in its region, in "scratch" for one row; 0 for in- and outputs."""

    name: str
    shape: tuple[Natural, ...]
    dtype: str
    region: str
    offset: Natural
    bytes: Natural


@dataclass(frozen=True)
class TextSetting:
    """How text is read: a setting, its value in JSON, and the file (and key) or option that says so."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class VocabularyFacts:
    """How many pieces, whether text keeps its case, and the sha256 of the tokenizer's description.

    max_tokens: the longest text that the model was made for, if its folder says.
    """

    pieces: Count
    cased: bool
    sha256: Digest
    kind: Kind = "WordPiece"
    max_tokens: Count | None = None
    settings: tuple[TextSetting, ...] = ()


@dataclass(frozen=True)
class AbiLibrary:
    """A library in an archive for several of Android's ABIs, and the target that it was built for."""

    abi: str
    target: TargetName
    bytes: Natural
    sha256: Digest


@dataclass(frozen=True)
class Package:
    """What --package made: its file; for Gradle also the Maven repository and the coordinates there.

    libraries: those in an Android archive.
    """

    file: Inside
    repository: Inside | None = None
    coordinates: str | None = None
    libraries: tuple[AbiLibrary, ...] = ()


@dataclass(frozen=True)
class Verification:
    """error: the largest absolute difference from the referee, as a share of that output's range.

    snr_db: of an int8 library's outputs to those of the model before it was quantised, in decibels; the least.
    texts: how many of the samples are texts, and not random; where there are any, snr_db is of those.
    lengths: tokens of samples that had fewer than the model takes; none where the referee has one length alone.
    """

    where: str
    samples: Count
    error: float
    tolerance: float
    passed: bool
    referee: str = "ONNX Runtime"
    snr_db: float | None = None
    texts: Natural = 0
    lengths: tuple[Count, ...] = ()


@dataclass(frozen=True)
class MeasuredTime:
    """Latency of this library: median and interquartile range of `runs`, on what; an estimate is called one."""

    device: str
    cores: tuple[Natural, ...]
    threads: Count
    tokens: Count
    runs: Count
    median_ms: float
    spread_ms: float
    date: str
    estimate: bool = False


@dataclass(frozen=True, kw_only=True)
class LibraryFacts:
    """What a runner needs to know of a library. name: the prefix of its symbols; linker, versions: what made it."""

    name: Name
    target: TargetName
    cpu: CpuName
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    linker: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest(LibraryFacts):
    """Everything that is known of an artifact.

    model: where it came from; cpu_features_required: of `cpu`; precision: "int8" if any kernel's is;
    shorter_sequences: whether any length up to `tokens` runs at its own cost; batch: how many sequences a run may have
    on dimension 0 (flops and calls are of one); sanitize: clang's sanitizers in the runtime, "" for none; task, labels,
    pooling: what the model is for, None and () if that was not said; activation: of logits to probabilities;
    normalized: whether vectors get length 1; checked: rules of the target that the linked file keeps; build_seconds: by
    phase; files: the sha256 of each of the artifact's but this one, by its path.
    """

    model: dict[str, str | int] = field(default_factory=dict)
    library: FileName
    header: Inside
    sha256: Digest
    triple: str
    isa: str
    cpu_features_required: tuple[str, ...]
    levels: tuple[Level, ...]
    precision: Precision
    kept_in_float: tuple[KeptInFloat, ...] = ()
    tokens: Count
    shorter_sequences: bool
    batch: Count = 1
    default_threads: Natural = 0
    sanitize: str = ""
    task: str | None = None
    labels: tuple[str, ...] = ()
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    pooling: str | None = None
    normalized: bool = False
    vocabulary: VocabularyFacts | None = None
    flops: Natural
    sizes: Sizes
    stages: Natural
    kernels: tuple[Kernel, ...]
    generic_kernels: tuple[GenericKernel, ...]
    calls: tuple[Call, ...]
    tensors: tuple[TensorPlace, ...]
    passes: Report | None = None
    tuning: TuningSummary | None = None
    checked: tuple[str, ...] = ()
    package: Package | None = None
    verification: tuple[Verification, ...] = ()
    measured: tuple[MeasuredTime, ...] = ()
    build_seconds: dict[str, float] = field(default_factory=dict)
    files: dict[Inside, Digest] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path, trusted_keys: Iterable[str] | None = None) -> Manifest:
        """The manifest of an artifact folder, signed by one of `trusted_keys` if those are given.

        Raises CompileError, which names the key, if it is not one.
        """
        path = Path(folder) / FILE
        try:
            text = read_text(path, CompileError)
        except CompileError as error:
            raise CompileError(f"{error}: give the folder that a build left, or build it again") from error
        if trusted_keys is not None:
            require_signature(path.parent, text.encode(), trusted_keys)
        try:
            data = parse_json(text)
        except ValueError as error:
            raise CompileError(f"{path} is damaged ({error}): build the artifact again") from error
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise CompileError(f"{path} has another format than this version reads: build the artifact again")
        if not is_sealed(text, data.pop("manifest_sha256", None)):
            raise CompileError(f"{path} is damaged: its own sha256 is not the one it states; build the artifact again")
        try:
            manifest = typed(cls, data)
            _require_consistent(manifest)
        except ValueError as error:
            raise CompileError(f"{path} is damaged ({error}): build the artifact again") from error
        return manifest

    def write(self, folder: Path) -> None:
        """Write manifest.json into an artifact folder, sealed."""
        (folder / FILE).write_text(seal(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """What the file holds, except its seal."""
        return {"format": FORMAT, **asdict(self, dict_factory=_without_none)}


def list_files(folder: Path) -> dict[str, str]:
    """The sha256 of each file in an artifact folder, by its path in it: of all but the manifest, which states it."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: sha256(path) for name, path in paths.items() if name not in (FILE, SIGNATURE)}


def toolchain_versions() -> dict[str, str]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _require_consistent(manifest: Manifest) -> None:
    """Raises ValueError where one part contradicts another."""
    kernels, tensors = {k.name for k in manifest.kernels}, len(manifest.tensors)
    for n, call in enumerate(manifest.calls):
        exists = call.kernel in kernels and call.stage < manifest.stages
        if not (exists and all(tensor < tensors for tensor, _, _ in call.reads + call.writes)):
            raise ValueError(f"at 'calls.{n}': it names a kernel, stage or tensor that is not there")
    for tensor in manifest.inputs + manifest.outputs:
        if tensor.token_axis is not None and tensor.token_axis >= len(tensor.shape):
            raise ValueError(f"at 'inputs' or 'outputs': {tensor.name!r} has no axis {tensor.token_axis}")
        if manifest.batch > 1 and tensor.shape[:1] != (manifest.batch,):
            raise ValueError(f"at 'batch': {tensor.name!r} has not {manifest.batch} rows")
    if CPUS[manifest.cpu].arch != TARGETS[manifest.target].arch:
        raise ValueError(f"at 'cpu': {manifest.cpu} is no CPU of {manifest.target}")


def _without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}


def seal(data: dict[str, Any]) -> str:
    """The manifest as text. Its last entry is the sha256 of that text without the digest itself."""
    text = _json({**data, "manifest_sha256": ""}) + "\n"
    return text.replace(_sealed(""), _sealed(hashlib.sha256(text.encode()).hexdigest()))


def is_sealed(text: str, digest: Any) -> bool:
    """Whether `text` is as `seal` made it, to the last bit."""
    return isinstance(digest, str) and sha256(text.replace(_sealed(digest), _sealed("")).encode()) == digest


def _sealed(digest: str) -> str:
    return f'"manifest_sha256": "{digest}"'


def sha256(content: bytes | Path) -> str:
    """Of bytes, or of a file."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any, margin: str = "\n") -> str:
    """JSON, indented down to what fits on one line."""
    text, inner = json.dumps(value, allow_nan=False), margin + "  "
    if len(margin) + len(text) <= WIDTH or not value or not isinstance(value, dict | list | tuple):
        return text
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_json(v, inner)}" for key, v in value.items()]
        return "{" + inner + f",{inner}".join(parts) + margin + "}"
    return "[" + inner + f",{inner}".join(_json(v, inner) for v in value) + margin + "]"
