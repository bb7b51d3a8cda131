"""Registries: one that images are pushed to, emptied before each sample, and the image that is pulled, put into the one with
the base images.

Speaks as much of the distribution specification as that takes. Measures nothing.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import mixture
from image import Image, WrongImage, flatten

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
# What an image that is pushed may take, in bytes.
ROOM = 2 << 30
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ACCEPTED = ", ".join([MANIFEST, DOCKER_MANIFEST, *INDEX_TYPES])


class PushTarget:
    """Debian's docker-registry on loopback, with its data in memory, as far as there is room: a registry elsewhere takes nothing
    of this machine's disk, which the stores are on."""

    def __init__(self, directory: pathlib.Path):
        self.directory = memory_directory() or directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        self.process: subprocess.Popen | None = None

    def empty(self) -> None:
        """Starts it, or starts it again, with nothing in it."""
        self.stop()
        self.directory.mkdir(parents=True)
        config = self.directory / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f'storage: {{filesystem: {{rootdirectory: "{self.directory / "data"}"}}}}\nhttp: {{addr: "{self.host}"}}\n'
        )
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)], **quiet)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).close()
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise OSError("docker-registry does not start")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.directory, ignore_errors=True)


def memory_directory() -> pathlib.Path | None:
    """A directory of this process in memory."""
    memory = pathlib.Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < ROOM:
        return None
    return memory / f"pushed-{os.getpid()}"


def get(host: str, path: str, accept: str = "*/*"):
    request = urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": accept})
    return urllib.request.urlopen(request, timeout=60)


def manifest_of(host: str, repository: str, tag: str) -> dict:
    """The manifest of the image behind a tag: the only one of an index, or this machine's."""
    manifest = json.load(get(host, f"{repository}/manifests/{tag}", ACCEPTED))
    while "manifests" in manifest:
        own = ARCHITECTURES.get(platform.machine(), platform.machine())
        # An attestation is a manifest for the platform unknown/unknown.
        real = [entry for entry in manifest["manifests"] if entry.get("platform", {}).get("os") != "unknown"]
        fitting = [entry for entry in real if entry.get("platform", {}).get("architecture") == own]
        real = fitting if len(real) > 1 else real
        if len(real) != 1:
            raise WrongImage(f"the index names {len(real)} images instead of one")
        manifest = json.load(get(host, f"{repository}/manifests/{real[0]['digest']}", ACCEPTED))
    return manifest


def read_pushed(host: str, repository: str, tag: str, compression: str) -> Image:
    """Reads an image back; `WrongImage` where its newest layer is not compressed as it was to be."""
    try:
        manifest = manifest_of(host, repository, tag)
        config = json.load(get(host, f"{repository}/blobs/{manifest['config']['digest']}"))
        newest = manifest["layers"][-1]["mediaType"]
        if not newest.endswith(compression):
            raise WrongImage(f"the newest layer is {newest}, and not compressed with {compression}")
        with tempfile.TemporaryDirectory(prefix="layers-") as directory:
            return flatten(config, (layer(host, repository, part, directory) for part in manifest["layers"]))
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise WrongImage(f"the pushed image cannot be read: {error!r}") from error


def layer(host: str, repository: str, descriptor: dict, directory: str):
    """A layer's tar, verified by its digest."""
    path = pathlib.Path(directory, "layer")
    digest = hashlib.sha256()
    with get(host, f"{repository}/blobs/{descriptor['digest']}") as response, path.open("wb") as file:
        while piece := response.read(1 << 20):
            digest.update(piece)
            file.write(piece)
    if f"sha256:{digest.hexdigest()}" != descriptor["digest"] or path.stat().st_size != descriptor["size"]:
        raise WrongImage(f"{descriptor['digest']} has other content")
    if descriptor["mediaType"].endswith("zstd"):
        subprocess.run(["zstd", "-d", "-q", "-f", "--rm", str(path), "-o", f"{path}.tar"], check=True)
        return pathlib.Path(f"{path}.tar").open("rb")
    return path.open("rb")


def put_blob(host: str, repository: str, content: bytes) -> dict:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    begin = urllib.request.Request(f"http://{host}/v2/{repository}/blobs/uploads/", method="POST", data=b"")
    with urllib.request.urlopen(begin, timeout=60) as response:
        place = urllib.parse.urljoin(begin.full_url, response.headers["Location"])
    place += ("&" if "?" in place else "?") + f"digest={urllib.parse.quote(digest)}"
    headers = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(place, method="PUT", data=content, headers=headers), timeout=600).close()
    return {"digest": digest, "size": len(content)}


def pulled_layer(seed: int, count: int) -> tuple[bytes, str]:
    """A layer of files of `mixture` below /data, with gzip, and its DiffID."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in mixture.contents(seed, count):
            entry = tarfile.TarInfo(f"data/{seed}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    tar = plain.getvalue()
    return gzip.compress(tar, 6, mtime=0), f"sha256:{hashlib.sha256(tar).hexdigest()}"


def ensure_pulled_image(host: str, repository: str, tag: str, layers: tuple[tuple[int, int], ...]) -> None:
    """Puts the image that is pulled, layers of (seed, files) on top of busybox, into the registry, once."""
    with contextlib.suppress(urllib.error.HTTPError):
        get(host, f"{repository}/manifests/{tag}", ACCEPTED).close()
        return
    manifest = manifest_of(host, "library/busybox", "latest")
    config = json.load(get(host, f"library/busybox/blobs/{manifest['config']['digest']}"))
    for base in manifest["layers"]:
        put_blob(host, repository, get(host, f"library/busybox/blobs/{base['digest']}").read())
    for seed, count in layers:
        content, diff = pulled_layer(seed, count)
        kind = manifest["layers"][0]["mediaType"]
        manifest["layers"].append({"mediaType": kind, **put_blob(host, repository, content)})
        config["rootfs"]["diff_ids"].append(diff)
        config.setdefault("history", []).append({"created_by": f"mixture {seed}"})
    manifest["config"] |= put_blob(host, repository, json.dumps(config).encode())
    headers = {"Content-Type": manifest.get("mediaType", MANIFEST)}
    url = f"http://{host}/v2/{repository}/manifests/{tag}"
    body = json.dumps(manifest).encode()
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=body, headers=headers), timeout=60).close()
