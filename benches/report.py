"""Turns samples into Markdown tables: times, ratios, peak memory, and the goals they are held against.

Measures nothing and starts nothing.
"""

import dataclasses
import statistics

import fixtures
from machine import MIB

OURS, OURS_ROOTLESS, REFERENCE = "builder", "builder rootless", "BuildKit"

# The greatest ratio that counts as reached, by workload, phase and the two programs.
GOALS = {
    ("W1", "no-op", OURS, REFERENCE): 0.3,
    ("W2", "cold", OURS, REFERENCE): 0.12,
    ("W2", "cold", OURS, "BuildKit crun"): 0.3,
    ("W2", "cold", OURS_ROOTLESS, "BuildKit rootless"): 0.2,
    ("W2", "cold", OURS_ROOTLESS, "BuildKit rootless crun"): 0.5,
    ("W3", "no-op", OURS, REFERENCE): 0.3,
    ("W4", "cold", OURS, REFERENCE): 0.9,
    ("W1", "cold", OURS, REFERENCE): 0.4,
    ("W5", "gzip", OURS, REFERENCE): 0.35,
    ("W5", "zstd", OURS, REFERENCE): 0.5,
    ("W7", "cold", OURS, REFERENCE): 0.5,
    ("W7", "cold", OURS, "Docker"): 0.5,
}
MEMORY_GOALS = {"W3": 100 * MIB, "W5": 200 * 1000 * 1000}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One build: its wall seconds and peak memory in bytes, or in `fault` why it does not count."""

    workload: str
    phase: str
    program: str
    repetition: int
    seconds: float = 0.0
    peak: int = 0
    quiet: bool = True
    fault: str = ""


def spread(values: list[float]) -> str:
    """Median [least–greatest], with about three digits that carry meaning."""
    middle = statistics.median(values)
    digits = 3 if middle < 1 else 2 if middle < 10 else 1 if middle < 100 else 0
    return f"{middle:.{digits}f} [{min(values):.{digits}f}–{max(values):.{digits}f}]"


def verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def compared(names: list[str]) -> list[tuple[str, str]]:
    """Whose times are divided by whose: builder's by each rival's, root's by root's and rootless by rootless (by all, if
    none is); without builder, each rival's by BuildKit's."""
    ours = [name for name in (OURS, OURS_ROOTLESS) if name in names]
    rivals = [name for name in names if name not in ours]
    if not ours:
        return [(rival, REFERENCE) for rival in rivals if rival != REFERENCE and REFERENCE in names]
    without_root = [rival for rival in rivals if "rootless" in rival.split()]
    with_root = [rival for rival in rivals if rival not in without_root]
    pairs = [(OURS, rival) for rival in with_root if OURS in ours]
    return pairs + [(OURS_ROOTLESS, rival) for rival in without_root or with_root if OURS_ROOTLESS in ours]


def row(title: str, figures: dict[str, list[float]], goals: dict[tuple[str, str], float] | None = None) -> str:
    """One line: each program's figures, then ratios of medians, held against the goals of these pairs."""
    cells = [spread(values) if values else "no result" for values in figures.values()]
    for pair in compared(list(figures)):
        if not all(figures[name] for name in pair):
            cells.append("–")
            continue
        ratio = statistics.median(figures[pair[0]]) / statistics.median(figures[pair[1]])
        goal = (goals or {}).get(pair)
        held = f" (goal {goal}: {verdict(ratio <= goal)})" if goal else ""
        cells.append(f"{ratio:.3f}{held}")
    return "| " + " | ".join([title, *cells]) + " |"


def goals_of(workload: str, phase: str) -> dict[tuple[str, str], float]:
    """The goals of one row, by the two programs."""
    return {(ours, rival): goal for (*of, ours, rival), goal in GOALS.items() if of == [workload, phase]}


def table(workload: fixtures.Workload, samples: list[Sample], names: list[str]) -> str:
    """The table of one workload; `names` are the programs in the order of their columns."""
    heads = [f"{workload.name} {workload.title}", *names, *(" / ".join(pair) for pair in compared(names))]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for phase in workload.phases:
        valid = [sample for sample in samples if sample.phase == phase.name and not sample.fault]
        seconds = {name: [sample.seconds for sample in valid if sample.program == name] for name in names}
        lines.append(row(f"{phase.name}, s", seconds, goals_of(workload.name, phase.name)))
        if phase is fixtures.COLD and workload.steps:
            milliseconds = {name: [1000 * value / workload.steps for value in seconds[name]] for name in names}
            lines.append(row("· a step, ms", milliseconds))
        if phase.cold or phase.push:
            peaks = {name: [sample.peak / MIB for sample in valid if sample.program == name] for name in names}
            lines.append(row("· peak memory, MiB", peaks))
    return "\n".join(lines + memory_note(workload, samples))


def memory_note(workload: fixtures.Workload, samples: list[Sample]) -> list[str]:
    """Where the workload has a memory goal: whether builder's largest peak over all its phases keeps to it."""
    limit = MEMORY_GOALS.get(workload.name)
    peaks = [sample.peak for sample in samples if sample.program == OURS and not sample.fault]
    if not limit or not peaks:
        return []
    held = f"(goal {limit / MIB:.0f}: {verdict(max(peaks) <= limit)})"
    return ["", f"Largest peak memory of {OURS} over all phases of {workload.name}: {max(peaks) / MIB:.0f} MiB {held}."]


def faults(samples: list[Sample]) -> list[str]:
    """One line for each sample that does not count, and one for those taken while something else was running."""
    lines = [
        f"No result: {s.workload} {s.phase} #{s.repetition + 1} {s.program}: {s.fault}" for s in samples if s.fault
    ]
    noisy = sum(not sample.quiet for sample in samples)
    if noisy:
        lines.append(f"{noisy} of {len(samples)} samples began while the machine was not quiet.")
    return lines
