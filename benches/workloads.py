#!/usr/bin/env python3
"""Measures builder beside its rivals: `benches/workloads.py --help`, and docs/benchmarks.md for the method.

Owns the command line and the order of the samples. Python 3.11 and its standard library, nothing else.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

import fixtures
import image
import machine
import programs
import registry
import report
from report import Sample

SAMPLE_LIMIT = 900.0  # seconds after which a build is given up
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


def arguments() -> argparse.Namespace:
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    names = [workload.name for workload in fixtures.WORKLOADS]
    add("--workload", action="append", choices=names, help="only this one; may be repeated")
    add("--repetitions", type=int, default=5, metavar="N", help="samples of each program in each phase")
    add(
        "--registry",
        metavar="HOST:PORT",
        default="127.0.0.1:5000",
        help="plain-HTTP registry that has library/busybox:latest and library/python:3.11-slim",
    )
    add("--builder", type=pathlib.Path, metavar="FILE", default=root / "target/release/builder", help="our program")
    add("--rootless-user", metavar="USER", help="measure our program as this ordinary user, too; needs root")
    add(
        "--buildkit-addr",
        action="append",
        default=[],
        type=named_address,
        metavar="[NAME=]ADDRESS",
        help="measure the buildkitd at this address; its whole cache is pruned; may be repeated with other names",
    )
    add("--buildctl", metavar="FILE", default="buildctl", help="the client of that buildkitd")
    add("--buildah", metavar="FILE", default="buildah", help="measured where it is found; '' for not at all")
    add("--docker-host", metavar="ADDRESS", help="measure the engine there; its cache and unused images are pruned")
    add(
        "--scratch",
        type=pathlib.Path,
        metavar="DIR",
        default=tempfile.gettempdir(),
        help="where contexts and stores go; cleaned up at the end",
    )
    add("--loop", type=int, metavar="GIB", help="put both on an ext4 in a loop file of this size in DIR (needs root)")
    add("--quiet-limit", type=float, default=20.0, metavar="SECONDS", help="longest wait for an idle machine")
    add("--json", type=pathlib.Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    if options.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    names = [name for name, _ in options.buildkit_addr]
    if len(set(names)) < len(names):
        parser.error("each --buildkit-addr needs a name of its own: NAME=ADDRESS")
    return options


def named_address(text: str) -> tuple[str, str]:
    """`NAME=ADDRESS`, or an address alone, which is plain BuildKit's."""
    name, separator, address = text.rpartition("=")
    if not address or (separator and not name):
        raise argparse.ArgumentTypeError(f"{text!r} is not [NAME=]ADDRESS")
    return name or "BuildKit", address


def find_programs(options: argparse.Namespace, scratch: pathlib.Path) -> list[programs.Program]:
    """The programs that are there and wanted, ours first."""
    found: list[programs.Program] = []
    if options.builder.exists():
        found.append(programs.Builder(scratch, options.builder.resolve(), options.registry))
        if options.rootless_user:
            user = options.rootless_user
            found.append(programs.RootlessBuilder(scratch, options.builder.resolve(), options.registry, user))
    for name, address in options.buildkit_addr:
        found.append(programs.BuildKit(scratch, options.buildctl, address, name))
    if options.buildah and (buildah := shutil.which(options.buildah)):
        found.append(programs.Buildah(scratch, buildah, options.registry))
    if options.docker_host:
        found.append(programs.Docker(scratch, options.docker_host))
    if not found:
        sys.exit(f"nothing to measure: there is no {options.builder}, no --buildkit-addr, no buildah, no --docker-host")
    return found


def require_bases(registry: str, workloads: list[fixtures.Workload]) -> None:
    """Ends the run before it begins if the registry lacks a base image."""
    for base in sorted({workload.base for workload in workloads}):
        name, _, tag = base.partition(":")
        url = f"http://{registry}/v2/{name}/manifests/{tag}"
        request = urllib.request.Request(url, method="HEAD", headers={"Accept": MANIFEST_TYPES})
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except OSError as error:
            sys.exit(f"{url}: {error}\nStart a registry there and push the base images to it: see docs/benchmarks.md.")


def measure(
    workload: fixtures.Workload,
    phase: fixtures.Phase,
    program: programs.Program,
    context: pathlib.Path,
    quiet_limit: float,
) -> dict[str, object]:
    """One sample's figures: an empty store where the phase wants it, quiet, the build, a look into its image."""
    tag = f"bench-{workload.name.lower()}:latest"
    if phase.cold:
        program.empty_store()
    quiet = machine.settle(quiet_limit)
    daemon = program.daemon()
    if daemon:
        machine.reset_peak(daemon)
    timing = machine.run_timed(program.build(context, tag), SAMPLE_LIMIT)
    peak = timing.peak + (machine.peak_of(daemon) if daemon else 0)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=program.scratch) as directory:
        if program.user:
            machine.give_to(program.user, pathlib.Path(directory))
        archive = pathlib.Path(directory, "image.tar")
        machine.run_timed(program.save(context, tag, archive), SAMPLE_LIMIT)
        image.check(image.read_archive(archive), workload.expected(context))
    return {"seconds": timing.seconds, "peak": peak, "quiet": quiet}


def measure_push(
    workload: fixtures.Workload,
    phase: fixtures.Phase,
    program: programs.Program,
    context: pathlib.Path,
    quiet_limit: float,
    target: registry.PushTarget,
) -> dict[str, object] | None:
    """The same for a build that pushes: the base is in the store, and in the registry, before. `None` where the program
    cannot compress so."""
    repository = f"bench/{workload.name.lower()}"
    command = program.build_and_push(context, f"{target.host}/{repository}:new", phase.push)
    if command is None:
        return None
    target.empty()
    program.empty_store()
    with tempfile.TemporaryDirectory(prefix="base-", dir=program.scratch) as directory:
        pathlib.Path(directory, "Dockerfile").write_text(f"FROM {workload.base}\nRUN true\n")
        if program.user:
            machine.give_to(program.user, pathlib.Path(directory), pathlib.Path(directory, "Dockerfile"))
        name = f"{target.host}/{repository}:base"
        machine.run_timed(program.build_and_push(pathlib.Path(directory), name, phase.push), SAMPLE_LIMIT)
    quiet = machine.settle(quiet_limit)
    daemon = program.daemon()
    if daemon:
        machine.reset_peak(daemon)
    timing = machine.run_timed(command, SAMPLE_LIMIT)
    peak = timing.peak + (machine.peak_of(daemon) if daemon else 0)
    pushed = registry.read_pushed(target.host, repository, "new", phase.push)
    image.check(pushed, workload.expected(context))
    return {"seconds": timing.seconds, "peak": peak, "quiet": quiet}


def run(
    workload: fixtures.Workload,
    contenders: list[programs.Program],
    directory: pathlib.Path,
    options: argparse.Namespace,
) -> list[Sample]:
    """All samples of one workload. Programs take turns within each phase; another one begins in each repetition."""
    context = directory / workload.name
    context.mkdir()
    workload.create(context)
    if workload.pulled:
        registry.ensure_pulled_image(options.registry, "library/bench-pull", "1", workload.pulled)
    target = registry.PushTarget(directory / "pushed")
    samples = []
    for repetition in range(options.repetitions):
        turn = repetition % len(contenders)
        for phase in workload.phases:
            phase.prepare(context, repetition)
            for program in contenders[turn:] + contenders[:turn]:
                sample = Sample(workload.name, phase.name, program.name, repetition)
                try:
                    if phase.push:
                        figures = measure_push(workload, phase, program, context, options.quiet_limit, target)
                    else:
                        figures = measure(workload, phase, program, context, options.quiet_limit)
                    if figures is None:
                        continue
                    sample = dataclasses.replace(sample, **figures)
                except (image.WrongImage, OSError, subprocess.SubprocessError) as fault:
                    sample = dataclasses.replace(sample, fault=str(fault))
                samples.append(sample)
                note = sample.fault or f"{sample.seconds:.3f} s{'' if sample.quiet else ', machine not quiet'}"
                line = f"{workload.name} {phase.name} #{repetition + 1} {program.name}: {note}"
                print(line, file=sys.stderr, flush=True)
    target.stop()
    shutil.rmtree(context)
    return samples


def heading(contenders: list[programs.Program], scratch: pathlib.Path, options: argparse.Namespace) -> str:
    """What was measured on what: the figures mean nothing without it."""
    _, kind = machine.mount_of(scratch.resolve())
    lines = [
        f"{os.cpu_count()} processors, Linux {platform.release()}, stores on {kind}; "
        f"{options.repetitions} samples each, interleaved; median [least–greatest].\n",
        *(f"- {program.name}: {program.version()}; its memory is that of {program.peak_is}" for program in contenders),
    ]
    if not machine.has_journal(scratch):
        lines.append("- **The stores are on an ext4 without a journal: cold figures mean little. Use --loop.**")
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    workloads = [w for w in fixtures.WORKLOADS if not options.workload or w.name in options.workload]
    require_bases(options.registry, workloads)
    samples: list[Sample] = []
    options.scratch.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="builder-bench-", dir=options.scratch)
        scratch = pathlib.Path(stack.enter_context(temporary))
        # An ordinary user's program reads its context there.
        scratch.chmod(0o755)
        if options.loop:
            scratch = stack.enter_context(machine.loop_filesystem(scratch, options.loop))
        stack.callback(machine.unmount_below, scratch)
        contenders = find_programs(options, scratch)
        try:
            print(heading(contenders, scratch, options), flush=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"a program does not say its version: {error}\n{getattr(error, 'stderr', '')}")
        for workload in workloads:
            taken = run(workload, contenders, scratch, options)
            samples += taken
            print(f"\n{report.table(workload, taken, [program.name for program in contenders])}", flush=True)
    print("\n".join(["", *report.faults(samples)]))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(sample) for sample in samples], indent=1))
    return 1 if any(sample.fault for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
