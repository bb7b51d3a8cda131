"""A wrong image must be no result: the check finds each way in which one can be wrong.

Run by `python3 -m unittest discover benches`.
"""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile
import tempfile
import unittest

from fixtures import WORKLOADS, Expected, sha256
from image import WrongImage, check, read_archive

EXPECTED = Expected("app/", {"app/a": sha256(b"one")}, "busybox", {"Cmd": ["x"]})


def layer(entries: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A layer's tar with these regular files and hard links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def oci_archive(layers: list[bytes], command: list[str], lie: bool = False) -> bytes:
    """An OCI archive; with `lie` its configuration has another digest than its name says."""
    blobs: dict[str, bytes] = {}

    def descriptor(content: bytes) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    config = descriptor(json.dumps({"config": {"Cmd": command}}).encode())
    if lie:
        blobs[f"blobs/sha256/{config['digest'][7:]}"] += b" "
    manifest = descriptor(
        json.dumps({"config": config, "layers": [descriptor(content) for content in layers]}).encode()
    )
    return layer({**blobs, "index.json": json.dumps({"manifests": [manifest]}).encode()})


def docker_archive(layers: list[bytes], command: list[str]) -> bytes:
    entry = {"Config": "config.json", "Layers": [f"{number}.tar" for number in range(len(layers))]}
    files = {
        "config.json": json.dumps({"config": {"Cmd": command}}).encode(),
        "manifest.json": json.dumps([entry]).encode(),
    }
    return layer({**files, **{f"{number}.tar": content for number, content in enumerate(layers)}})


class CheckedImage(unittest.TestCase):
    BASE = layer({"bin/busybox": b"base", "app/old": b"old"})
    APP = layer({"app/a": b"one", "app/.wh.old": b""})

    def outcome(self, archive: bytes) -> str:
        """What the check says of an archive: nothing, or the fault."""
        with tempfile.NamedTemporaryFile() as file:
            pathlib.Path(file.name).write_bytes(archive)
            try:
                check(read_archive(pathlib.Path(file.name)), EXPECTED)
            except WrongImage as wrong:
                return str(wrong)
        return ""

    def test_a_right_image_passes_in_either_format(self):
        self.assertEqual(self.outcome(oci_archive([self.BASE, self.APP], ["x"])), "")
        self.assertEqual(self.outcome(oci_archive([self.BASE, gzip.compress(self.APP)], ["x"])), "")
        self.assertEqual(self.outcome(docker_archive([self.BASE, self.APP], ["x"])), "")

    def test_missing_extra_and_changed_files_are_found(self):
        self.assertIn("/app/a is missing", self.outcome(oci_archive([self.BASE], ["x"])))
        self.assertIn(
            "/app/old does not belong", self.outcome(oci_archive([self.BASE, layer({"app/a": b"one"})], ["x"]))
        )
        changed = oci_archive([self.BASE, self.APP, layer({"app/a": b"two"})], ["x"])
        self.assertIn("/app/a has other content", self.outcome(changed))

    def test_a_missing_base_and_a_wrong_configuration_are_found(self):
        self.assertIn("busybox", self.outcome(oci_archive([self.APP], ["x"])))
        self.assertIn("Cmd is ['y']", self.outcome(oci_archive([self.BASE, self.APP], ["y"])))

    def test_a_false_digest_and_a_broken_archive_are_found(self):
        self.assertIn("has other content", self.outcome(oci_archive([self.BASE, self.APP], ["x"], lie=True)))
        self.assertIn("cannot be read", self.outcome(b"no archive"))

    def test_whiteouts_and_hard_links_act_as_in_a_runtime(self):
        opaque = layer({"app/a": b"one", "app/.wh..wh..opq": b""})
        self.assertEqual(self.outcome(oci_archive([self.BASE, opaque], ["x"])), "")
        linked = layer({"one": b"one", "app/.wh.old": b""}, {"app/a": "one"})
        self.assertEqual(self.outcome(oci_archive([self.BASE, linked], ["x"])), "")


class Contexts(unittest.TestCase):
    def test_contexts_are_the_same_bytes_each_time_and_phases_change_what_they_say(self):
        for workload in WORKLOADS:
            with (
                self.subTest(workload.name),
                tempfile.TemporaryDirectory() as one,
                tempfile.TemporaryDirectory() as two,
            ):
                first, second = pathlib.Path(one), pathlib.Path(two)
                workload.create(first)
                workload.create(second)
                before = workload.expected(first)
                self.assertEqual(before, workload.expected(second))
                for phase in workload.phases:
                    phase.prepare(first, 0)
                    after = workload.expected(first)
                    differing = sum(before.files[path] != after.files[path] for path in before.files)
                    self.assertEqual(differing, 1 if phase.name.endswith("changed") else 0, phase.name)
                    before = after


if __name__ == "__main__":
    unittest.main()
