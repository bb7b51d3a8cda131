"""The workloads: what each context holds, how it changes before each phase, and what its image must contain.

Deterministic: the same bytes on every machine. Starts nothing and measures nothing.
"""

import hashlib
import os
import pathlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import mixture

STEPS = 30
STAGES = 8
DIRECTORIES = 200
FILES = 20_000
LARGE_FILES = 3_000
# Seeds and files of the layers that W7 pulls: 500 MB compressed, 700 MB of files.
PULLED = ((101, 1400), (102, 900), (103, 500), (104, 300), (105, 250), (106, 150))


@dataclass(frozen=True)
class Phase:
    """One measured build. `prepare(context, repetition)` changes the context before any program builds it."""

    name: str
    prepare: Callable[[pathlib.Path, int], None]
    push: str = ""  # with this compression, into an empty registry
    cold: bool = False  # the store is emptied before


@dataclass(frozen=True)
class Expected:
    """What a right image has: exactly `files` (path to sha256) among the paths that start with `prefix`, a file called
    `from_base` somewhere, and these values in its configuration."""

    prefix: str
    files: dict[str, str]
    from_base: str
    config: dict[str, object]


@dataclass(frozen=True)
class Workload:
    """A context and the phases it is built in; the first phase always starts from an empty store."""

    name: str
    title: str
    base: str
    create: Callable[[pathlib.Path], None]
    expected: Callable[[pathlib.Path], Expected]
    phases: tuple[Phase, ...]
    steps: int = 0  # RUN steps, where the time of one is of interest
    pulled: tuple[tuple[int, int], ...] = ()  # layers of the base, which is made for this: seeds and files of `mixture`


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unchanged(context: pathlib.Path, repetition: int) -> None:
    """The phase builds the context as the one before left it."""


# W1: a small application on a large base.


def hello_application(context: pathlib.Path, repetition: int) -> None:
    # Always as many bytes, so that a program which looks only at sizes is found out.
    (context / "app.py").write_text(f"print('hello, build {repetition:06d}')\n")


def create_hello(context: pathlib.Path) -> None:
    (context / "Dockerfile").write_text(
        'FROM python:3.11-slim\nWORKDIR /app\nCOPY app.py .\nCMD ["python", "app.py"]\n'
    )
    hello_application(context, 0)


def expected_hello(context: pathlib.Path) -> Expected:
    files = {"app/app.py": sha256((context / "app.py").read_bytes())}
    return Expected("app/", files, "python3", {"Cmd": ["python", "app.py"], "WorkingDir": "/app"})


# W2: many small steps, one after the other.


def create_steps(context: pathlib.Path) -> None:
    runs = (f"RUN echo {step} > /f_{step}\n" for step in range(1, STEPS + 1))
    (context / "Dockerfile").write_text("FROM busybox\n" + "".join(runs))


def expected_steps(context: pathlib.Path) -> Expected:
    files = {f"f_{step}": sha256(f"{step}\n".encode()) for step in range(1, STEPS + 1)}
    return Expected("f_", files, "busybox", {})


# W3: a large context of small files.


def source_file(index: int) -> str:
    return f"src/d{index % DIRECTORIES:03d}/f{index:05d}.txt"


def create_files(context: pathlib.Path) -> None:
    chance = random.Random(3)
    pool = b"\n".join(b"%016x %d" % (chance.getrandbits(64), line) for line in range(100_000))
    (context / "Dockerfile").write_text("FROM busybox\nCOPY . /app\nRUN true\n")
    for directory in range(DIRECTORIES):
        (context / f"src/d{directory:03d}").mkdir(parents=True)
    for index in range(FILES):
        size, start = chance.randint(1024, 7 * 1024), chance.randrange(len(pool) - 8 * 1024)
        head = f"file {index}\n".encode()
        (context / source_file(index)).write_bytes(head + pool[start : start + size - len(head)])


def change_one_file(context: pathlib.Path, repetition: int) -> None:
    path = context / source_file(11_111)
    content = path.read_bytes()
    mark = f"change {repetition:06d}\n".encode()
    path.write_bytes(mark + content[len(mark) :])


def touch_one_file(context: pathlib.Path, repetition: int) -> None:
    os.utime(context / source_file(7_777))


def touch_all_files(context: pathlib.Path, repetition: int) -> None:
    for index in range(FILES):
        os.utime(context / source_file(index))


def expected_files(context: pathlib.Path) -> Expected:
    paths = ["Dockerfile", *(source_file(index) for index in range(FILES))]
    return Expected("app/", {f"app/{path}": sha256((context / path).read_bytes()) for path in paths}, "busybox", {})


# W4: stages that do not depend on one another.


def create_stages(context: pathlib.Path) -> None:
    stages = "".join(f"FROM busybox AS s{n}\nRUN sleep 1 && echo stage {n} > /out\n" for n in range(1, STAGES + 1))
    copies = "".join(f"COPY --from=s{n} /out /out_{n}\n" for n in range(1, STAGES + 1))
    (context / "Dockerfile").write_text(f"{stages}FROM busybox\n{copies}")


def expected_stages(context: pathlib.Path) -> Expected:
    files = {f"out_{n}": sha256(f"stage {n}\n".encode()) for n in range(1, STAGES + 1)}
    return Expected("out_", files, "busybox", {})


# W5: a large layer, built and pushed. The base is there before, here and in the registry.


def create_large_layer(context: pathlib.Path) -> None:
    shutil.copy(mixture.__file__, context / "mixture.py")
    new_large_layer(context, 0)


def new_large_layer(context: pathlib.Path, repetition: int) -> None:
    (context / "Dockerfile").write_text(
        "FROM python:3.11-slim\n"
        f"RUN --mount=type=bind,target=/context python3 /context/mixture.py {repetition + 1} {LARGE_FILES} /data\n"
    )


def expected_large_layer(context: pathlib.Path) -> Expected:
    seed = int((context / "Dockerfile").read_text().split()[-3])
    files = {f"data/{name}": sha256(content) for name, content in mixture.contents(seed, LARGE_FILES)}
    return Expected("data/", files, "python3", {})


# W7: half a gigabyte that is pulled.


def create_pulled(context: pathlib.Path) -> None:
    (context / "Dockerfile").write_text("FROM library/bench-pull:1\nCOPY marker /data/marker\n")
    (context / "marker").write_text("pulled\n")


def expected_pulled(context: pathlib.Path) -> Expected:
    files = {"data/marker": sha256((context / "marker").read_bytes())}
    for seed, count in PULLED:
        files |= {f"data/{seed}/{name}": sha256(content) for name, content in mixture.contents(seed, count)}
    return Expected("data/", files, "busybox", {})


COLD = Phase("cold", unchanged, cold=True)
NO_OP = Phase("no-op", unchanged)

WORKLOADS = (
    Workload(
        "W1",
        "hello: one file on a python base",
        "library/python:3.11-slim",
        create_hello,
        expected_hello,
        # Repetitions count from 0, the context begins with 0: what differs is written from 1 on.
        (COLD, NO_OP, Phase("app.py changed", lambda context, repetition: hello_application(context, repetition + 1))),
    ),
    Workload(
        "W2",
        f"{STEPS} × RUN",
        "library/busybox:latest",
        create_steps,
        expected_steps,
        (COLD, NO_OP),
        steps=STEPS,
    ),
    Workload(
        "W3",
        f"{FILES:,} files of 1–8 KiB in {DIRECTORIES} directories",
        "library/busybox:latest",
        create_files,
        expected_files,
        (
            COLD,
            NO_OP,
            Phase("one mtime touched", touch_one_file),
            Phase("all mtimes touched", touch_all_files),
            Phase("one file changed", change_one_file),
        ),
    ),
    Workload(
        "W4",
        f"{STAGES} parallel stages, each sleep 1",
        "library/busybox:latest",
        create_stages,
        expected_stages,
        (COLD, NO_OP),
    ),
    Workload(
        "W5",
        "600 MB in one layer, built and pushed",
        "library/python:3.11-slim",
        create_large_layer,
        expected_large_layer,
        (Phase("gzip", new_large_layer, push="gzip"), Phase("zstd", new_large_layer, push="zstd")),
    ),
    Workload(
        "W7",
        "500 MB pulled, in six layers",
        "library/busybox:latest",
        create_pulled,
        expected_pulled,
        (COLD,),
        pulled=PULLED,
    ),
)
