"""Reads an image archive back and says whether it is the image that was asked for.

Understands OCI archives and docker archives, uncompressed or gzip. Knows no workload and no program.
"""

import hashlib
import json
import pathlib
import posixpath
import tarfile
from dataclasses import dataclass

from fixtures import Expected

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class WrongImage(Exception):
    """The image is not the one the Dockerfile describes, or cannot be read."""


@dataclass(frozen=True)
class Image:
    """The regular files of the flattened layers (path to sha256), every path, and the image's configuration."""

    files: dict[str, str]
    paths: frozenset[str]
    config: dict[str, object]


def read_archive(path: pathlib.Path) -> Image:
    """Reads the only image in the archive at `path`; raises `WrongImage` if there is none to read."""
    try:
        with tarfile.open(path, "r:") as archive:
            names = {posixpath.normpath(name) for name in archive.getnames()}
            members = {
                posixpath.normpath(member.name): member for member in archive if member.isreg() or member.islnk()
            }

            def blob(name: str):
                return archive.extractfile(members[posixpath.normpath(name)])

            config, layers = oci_parts(blob) if "index.json" in names else docker_parts(blob)
            return flatten(config, (blob(layer) for layer in layers))
    except (tarfile.TarError, KeyError, ValueError, OSError) as error:
        raise WrongImage(f"the archive cannot be read: {error!r}") from error


def oci_parts(blob) -> tuple[dict, list[str]]:
    """The configuration and the layers' file names, by the OCI image layout; documents are verified by digest."""

    def named(descriptor: dict) -> str:
        return "blobs/" + descriptor["digest"].replace(":", "/")

    def document(descriptor: dict) -> dict:
        content = blob(named(descriptor)).read()
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != descriptor["digest"]:
            raise WrongImage(f"{descriptor['digest']} has other content")
        return json.loads(content)

    def image_of(index: dict) -> dict:
        # An attestation is a manifest for the platform unknown/unknown.
        real = [entry for entry in index["manifests"] if entry.get("platform", {}).get("os") != "unknown"]
        if len(real) != 1:
            raise WrongImage(f"the index names {len(real)} images instead of one")
        return document(real[0])

    manifest = image_of(json.loads(blob("index.json").read()))
    while "manifests" in manifest or manifest.get("mediaType") in INDEX_TYPES:
        manifest = image_of(manifest)
    return document(manifest["config"]), [named(layer) for layer in manifest["layers"]]


def docker_parts(blob) -> tuple[dict, list[str]]:
    """The configuration and the layers' file names, by the docker archive's manifest.json."""
    (entry,) = json.loads(blob("manifest.json").read())
    return json.loads(blob(entry["Config"]).read()), entry["Layers"]


def flatten(config: dict, layers) -> Image:
    """Applies the layers in order, as a runtime would see them."""
    files: dict[str, str] = {}
    paths: set[str] = set()

    def remove(path: str, itself: bool) -> None:
        for gone in [old for old in paths if old.startswith(f"{path}/") or (itself and old == path)]:
            paths.discard(gone)
            files.pop(gone, None)

    for layer in layers:
        with tarfile.open(fileobj=layer, mode="r|*") as archive:
            added: dict[str, str] = {}
            added_paths: set[str] = set()
            for member in archive:
                path = posixpath.normpath(member.name).lstrip("/")
                directory, name = posixpath.split(path)
                if name == OPAQUE:
                    remove(directory, itself=False)
                elif name.startswith(WHITEOUT):
                    remove(posixpath.join(directory, name.removeprefix(WHITEOUT)), itself=True)
                else:
                    added_paths.add(path)
                    if not member.isdir() and path in paths:
                        remove(path, itself=True)
                    if member.isreg():
                        added[path] = hashlib.file_digest(archive.extractfile(member), "sha256").hexdigest()
                    elif member.islnk():
                        target = posixpath.normpath(member.linkname).lstrip("/")
                        added[path] = added[target] if target in added else files[target]
            paths |= added_paths
            files.update(added)
    return Image(files, frozenset(paths), config.get("config", {}))


def check(image: Image, expected: Expected) -> None:
    """Raises `WrongImage` with the first difference between `image` and what was expected of it."""
    found = {path: digest for path, digest in image.files.items() if path.startswith(expected.prefix)}
    for path in sorted(found.keys() | expected.files.keys()):
        if path not in found:
            raise WrongImage(f"/{path} is missing")
        if path not in expected.files:
            raise WrongImage(f"/{path} does not belong in the image")
        if found[path] != expected.files[path]:
            raise WrongImage(f"/{path} has other content than the context")
    if not any(posixpath.basename(path) == expected.from_base for path in image.paths):
        raise WrongImage(f"nothing called {expected.from_base}: the base's files are missing")
    for key, value in expected.config.items():
        if image.config.get(key) != value:
            raise WrongImage(f"{key} is {image.config.get(key)!r} instead of {value!r}")
