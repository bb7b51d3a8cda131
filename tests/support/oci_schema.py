"""Holds an OCI layout to the JSON schemas of the image specification, as Debian packages them.

    oci_schema.py DIRECTORY

Walks from `index.json` through all indexes and manifests to their configurations, and prints how many documents of each kind it
saw. Ends with 1, and says what is wrong, at the first document that its schema refuses.
"""

import json
import pathlib
import sys

import jsonschema

SCHEMAS = pathlib.Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")
KINDS = {
    "application/vnd.oci.image.index.v1+json": "image-index-schema.json",
    "application/vnd.oci.image.manifest.v1+json": "image-manifest-schema.json",
    "application/vnd.oci.image.config.v1+json": "config-schema.json",
}


def schema(address):
    """The schema that another one means: they name each other by file, relative to ids of their own."""
    return json.loads((SCHEMAS / address.rsplit("/", 1)[-1]).read_text())


def check(document, schema_name, where):
    own = schema(schema_name)
    resolver = jsonschema.RefResolver("https://opencontainers.org/schema/image/" + schema_name, own, handlers={"https": schema})
    validator = jsonschema.Draft4Validator(own, resolver=resolver)
    for error in validator.iter_errors(document):
        path = "/".join(str(part) for part in error.absolute_path)
        sys.exit(f"{where} ({schema_name}): {path}: {error.message}")


def main(layout):
    check(json.loads((layout / "oci-layout").read_text()), "image-layout-schema.json", "oci-layout")
    top = json.loads((layout / "index.json").read_text())
    seen = {}
    waiting = [("index.json", "application/vnd.oci.image.index.v1+json", top)]
    while waiting:
        where, kind, document = waiting.pop()
        check(document, KINDS[kind], where)
        seen[KINDS[kind]] = seen.get(KINDS[kind], 0) + 1
        below = document.get("manifests", [])
        if "layers" in document:
            below = [document["config"]]
        for descriptor in below:
            if descriptor["mediaType"] in KINDS:
                blob = layout / "blobs" / descriptor["digest"].replace(":", "/")
                waiting.append((descriptor["digest"], descriptor["mediaType"], json.loads(blob.read_text())))
    print(json.dumps(seen, sort_keys=True))


main(pathlib.Path(sys.argv[1]))
