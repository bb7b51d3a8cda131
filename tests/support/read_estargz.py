"""Reads the layers of an OCI layout as a reader that fetches single files does: footer, table of contents, chunks.

Says as JSON how many layers are eStargz, and what files those have. Whatever is not as the format says ends it.
"""

import hashlib
import io
import json
import pathlib
import sys
import tarfile
import zlib

FOOTER = 51


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def member(blob, offset, size=None):
    """What the gzip member at `offset` begins with."""
    stream = zlib.decompressobj(wbits=31)
    return stream.decompress(blob[offset:]) if size is None else stream.decompress(blob[offset:], size)


def members(blob):
    content = b""
    while blob:
        stream = zlib.decompressobj(wbits=31)
        content += stream.decompress(blob)
        blob = stream.unused_data
    return content


def files(blob, annotations, diff_id):
    footer = blob[-FOOTER:]
    assert footer[:4] == b"\x1f\x8b\x08\x04" and footer[12:14] == b"SG" and footer[32:38] == b"STARGZ"
    place = int(footer[16:32], 16)
    last = tarfile.open(fileobj=io.BytesIO(member(blob, place)))
    assert last.getnames() == ["stargz.index.json"]
    table = last.extractfile("stargz.index.json").read()
    assert annotations["containerd.io/snapshot/stargz/toc.digest"] == digest(table)
    whole = members(blob)
    assert annotations["io.containers.estargz.uncompressed-size"] == str(len(whole))
    assert diff_id == digest(whole)
    entries = json.loads(table)["entries"]
    archive = tarfile.open(fileobj=io.BytesIO(whole))
    names = [entry.name for entry in archive]
    assert names[-1] == "stargz.index.json" and names[0] == ".no.prefetch.landmark"
    said = [entry["name"].rstrip("/") for entry in entries if entry["type"] != "chunk"]
    assert said == names[:-1], (said, names)
    found = {}
    sizes = {entry["name"]: entry.get("size", 0) for entry in entries if entry["type"] == "reg"}
    for entry in entries:
        if entry["type"] not in ("reg", "chunk"):
            continue
        name = entry["name"]
        content = found.setdefault(name, b"")
        if sizes[name] > 0:
            assert entry.get("chunkOffset", 0) == len(content)
            size = entry.get("chunkSize") or sizes[name] - len(content)
            chunk = member(blob, entry["offset"], size)
            assert len(chunk) == size and entry["chunkDigest"] == digest(chunk)
            found[name] = content + chunk
    for entry in entries:
        if entry["type"] == "reg":
            assert entry["digest"] == digest(found[entry["name"]])
            assert archive.extractfile(entry["name"]).read() == found[entry["name"]]
    return said


def main(layout):
    blobs = pathlib.Path(layout, "blobs/sha256")
    read = lambda descriptor: blobs.joinpath(descriptor["digest"].removeprefix("sha256:")).read_bytes()
    seen, pending = [], json.loads(pathlib.Path(layout, "index.json").read_bytes())["manifests"]
    while pending:
        document = json.loads(read(pending.pop(0)))
        pending += document.get("manifests", [])
        layers = [layer for layer in document.get("layers", []) if "tar" in layer["mediaType"]]
        diffs = json.loads(read(document["config"]))["rootfs"]["diff_ids"] if layers else []
        assert len(diffs) == len(layers)
        image = []
        for layer, diff_id in zip(layers, diffs):
            annotations = layer.get("annotations", {})
            if "containerd.io/snapshot/stargz/toc.digest" in annotations:
                image.append(files(read(layer), annotations, diff_id))
            else:
                image.append(None)
        if layers:
            seen.append(image)
    print(json.dumps(seen))


main(sys.argv[1])
