"""Who is held against whom, and against what.

Run by `python3 -m unittest discover benches`.
"""

import argparse
import unittest

import fixtures
import report
from report import Sample
from workloads import named_address

ALL = ["builder", "builder rootless", "BuildKit", "BuildKit crun", "BuildKit rootless", "BuildKit rootless crun"]


class Pairs(unittest.TestCase):
    def test_root_is_held_against_root_and_rootless_against_rootless(self):
        self.assertEqual(
            report.compared(ALL),
            [
                ("builder", "BuildKit"),
                ("builder", "BuildKit crun"),
                ("builder rootless", "BuildKit rootless"),
                ("builder rootless", "BuildKit rootless crun"),
            ],
        )

    def test_without_a_rootless_rival_all_are_compared_with(self):
        pairs = [("builder", "BuildKit"), ("builder rootless", "BuildKit")]
        self.assertEqual(report.compared(["builder", "builder rootless", "BuildKit"]), pairs)

    def test_without_builder_rivals_are_compared_with_buildkit(self):
        self.assertEqual(report.compared(["BuildKit", "buildah"]), [("buildah", "BuildKit")])
        self.assertEqual(report.compared(["BuildKit crun", "buildah"]), [])


class Goals(unittest.TestCase):
    def table(self, seconds: dict[str, float]) -> str:
        workload = next(workload for workload in fixtures.WORKLOADS if workload.name == "W2")
        samples = [Sample("W2", "cold", name, 0, seconds=value, peak=report.MIB) for name, value in seconds.items()]
        return report.table(workload, samples, list(seconds))

    def test_each_pair_has_its_own(self):
        table = self.table(dict(zip(ALL, [0.1, 0.2, 1.0, 0.3, 1.1, 0.41])))
        cold = next(line for line in table.splitlines() if line.startswith("| cold"))
        ratios = [cell.strip() for cell in cold.split("|")[-5:-1]]
        self.assertEqual(
            ratios,
            [
                "0.100 (goal 0.12: reached)",
                "0.333 (goal 0.3: **missed**)",
                "0.182 (goal 0.2: reached)",
                "0.488 (goal 0.5: reached)",
            ],
        )

    def test_goals_are_of_phases_that_exist(self):
        phases = {(workload.name, phase.name) for workload in fixtures.WORKLOADS for phase in workload.phases}
        self.assertLessEqual({(workload, phase) for workload, phase, *_ in report.GOALS}, phases)


class Addresses(unittest.TestCase):
    def test_a_name_is_optional(self):
        self.assertEqual(named_address("unix:///run/b.sock"), ("BuildKit", "unix:///run/b.sock"))
        self.assertEqual(named_address("BuildKit crun=tcp://x:1"), ("BuildKit crun", "tcp://x:1"))

    def test_neither_part_may_be_empty(self):
        for text in ["", "=unix:///x", "name="]:
            with self.assertRaises(argparse.ArgumentTypeError):
                named_address(text)


if __name__ == "__main__":
    unittest.main()
