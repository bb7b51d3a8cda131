"""The programs that are measured: how each is asked for an empty store, a build, and an archive of the image.

Every program gets the same Dockerfiles and the same base images, through a mirror of docker.io on loopback, the host's
network for its steps, and leaves its image in a store of its own. Nothing here measures.
"""

import itertools
import os
import pathlib
import shlex
import shutil
import subprocess

import machine
from machine import Command


class Program:
    """One builder of images. `name` heads its column; `peak_is` says what its memory figure counts."""

    name: str
    peak_is: str
    # As whom its commands run; `None` is the caller.
    user: str | None = None

    def __init__(self, scratch: pathlib.Path):
        self.scratch = scratch / self.name.lower().replace(" ", "-")
        self.home = self.scratch / "home"
        self.home.mkdir(parents=True)
        (self.scratch / "tmp").mkdir()
        if self.user:
            machine.give_to(self.user, self.scratch, self.home, self.scratch / "tmp")

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the caller's but the search path; notably no SOURCE_DATE_EPOCH and no configuration."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.scratch / "tmp"), **more}

    def version(self) -> str:
        """One line that says what was measured."""
        raise NotImplementedError

    def empty_store(self) -> None:
        """Forgets every image, layer and step: the next build is a cold one."""
        raise NotImplementedError

    def build(self, context: pathlib.Path, tag: str) -> Command:
        """The build that is timed."""
        raise NotImplementedError

    def build_and_push(self, context: pathlib.Path, name: str, compression: str) -> Command | None:
        """A build whose image goes to a registry of plain HTTP on loopback; `None` where it cannot compress so."""
        return None

    def save(self, context: pathlib.Path, tag: str, archive: pathlib.Path) -> Command:
        """Writes the image that `build` made as an archive."""
        raise NotImplementedError

    def daemon(self) -> int | None:
        """The process that does the work for the one that is started, if there is one."""
        return None


def first_line(arguments: list[str], environment: dict[str, str]) -> str:
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[0]


def both(first: Command, second: Command) -> Command:
    """One after the other, where the first succeeds."""
    line = " && ".join(shlex.join(command.arguments) for command in (first, second))
    return Command(["/bin/sh", "-c", line], first.environment, first.user)


class Builder(Program):
    """This project's program."""

    name = "builder"
    peak_is = "the process and its steps"

    def __init__(self, scratch: pathlib.Path, binary: pathlib.Path, registry: str):
        super().__init__(scratch)
        self.binary = str(binary)
        self.configuration = self.scratch / "config.toml"
        self.configuration.write_text(f'[registry."docker.io"]\nmirrors = ["http://{registry}"]\n')
        self.store = self.scratch / "store"

    def command(self, *arguments: str) -> Command:
        environment = self.environment(BUILDER_ROOT=str(self.store), BUILDER_CONFIG=str(self.configuration))
        return Command([self.binary, *arguments], environment, self.user)

    def version(self) -> str:
        command = self.command("--version")
        return first_line(command.arguments, command.environment)

    def empty_store(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        if self.store.exists():
            raise OSError(f"{self.store} could not be removed")

    def build(self, context: pathlib.Path, tag: str) -> Command:
        return self.command("build", "--progress", "plain", "-t", tag, str(context))

    def build_and_push(self, context: pathlib.Path, name: str, compression: str) -> Command:
        output = f"type=registry,compression={compression}"
        return self.command("build", "--progress", "plain", "-t", name, "--output", output, str(context))

    def save(self, context: pathlib.Path, tag: str, archive: pathlib.Path) -> Command:
        return self.command("save", "-o", str(archive), tag)


class RootlessBuilder(Builder):
    """The same as an ordinary user."""

    name = "builder rootless"

    def __init__(self, scratch: pathlib.Path, binary: pathlib.Path, registry: str, user: str):
        self.user = user
        super().__init__(scratch, binary, registry)


class BuildKit(Program):
    """buildctl and a buildkitd that runs already. Its whole cache is pruned, so give it a daemon kept for this."""

    peak_is = "buildctl and buildkitd, each one's peak, without its steps"

    def __init__(self, scratch: pathlib.Path, buildctl: str, address: str, name: str = "BuildKit"):
        self.name = name
        super().__init__(scratch)
        self.control = [buildctl, "--addr", address]
        self.address = address

    def version(self) -> str:
        run = subprocess.run(
            [*self.control, "debug", "info"], env=self.environment(), capture_output=True, text=True, check=True
        )
        return " ".join(line.split(":", 1)[1].strip() for line in run.stdout.splitlines()[:1])

    def empty_store(self) -> None:
        subprocess.run([*self.control, "prune", "--all"], env=self.environment(), check=True, stdout=subprocess.DEVNULL)

    def command(self, context: pathlib.Path, output: str) -> Command:
        sources = ["--local", f"context={context}", "--local", f"dockerfile={context}"]
        frontend = ["build", "--progress", "plain", "--frontend", "dockerfile.v0"]
        return Command([*self.control, *frontend, *sources, "--output", output], self.environment())

    def build(self, context: pathlib.Path, tag: str) -> Command:
        # Uncompressed, which is its fastest way to leave an image in its store and the same work as the others do.
        return self.command(context, f"type=image,name=docker.io/bench/{tag},compression=uncompressed")

    def build_and_push(self, context: pathlib.Path, name: str, compression: str) -> Command:
        form = f"compression={compression},oci-mediatypes=true"
        return self.command(context, f"type=image,name={name},push=true,registry.insecure=true,{form}")

    def save(self, context: pathlib.Path, tag: str, archive: pathlib.Path) -> Command:
        # It has no other way to hand an image out: the same build again, all of it from its cache.
        return self.command(context, f"type=oci,dest={archive},compression=uncompressed")

    def daemon(self) -> int | None:
        return machine.listener_pid(self.address)


class Buildah(Program):
    """buildah with its overlay driver and its layer cache."""

    name = "buildah"
    peak_is = "the process and its steps"

    def __init__(self, scratch: pathlib.Path, binary: str, registry: str):
        super().__init__(scratch)
        self.binary = binary
        self.registries = self.scratch / "registries.conf"
        self.registries.write_text(
            'unqualified-search-registries = ["docker.io"]\n[[registry]]\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{registry}"\ninsecure = true\n'
        )
        self.stores = (self.scratch / f"store-{number}" for number in itertools.count())
        self.store = next(self.stores)

    def command(self, *arguments: str) -> Command:
        places = [
            "--root",
            str(self.store / "root"),
            "--runroot",
            str(self.store / "run"),
            "--storage-driver",
            "overlay",
        ]
        # It would take crun where that is installed, and Debian 12's refuses hybrid cgroups.
        runtime = {"BUILDAH_RUNTIME": "runc"} if shutil.which("runc") else {}
        environment = self.environment(CONTAINERS_REGISTRIES_CONF=str(self.registries), **runtime)
        return Command([self.binary, *places, *arguments], environment)

    def version(self) -> str:
        return first_line([self.binary, "--version"], self.environment())

    def empty_store(self) -> None:
        machine.unmount_below(self.store)
        shutil.rmtree(self.store, ignore_errors=True)
        self.store = next(self.stores)

    def build(self, context: pathlib.Path, tag: str) -> Command:
        return self.command("build", "--layers", "--jobs", "8", "--network", "host", "-t", tag, str(context))

    def build_and_push(self, context: pathlib.Path, name: str, compression: str) -> Command:
        push = self.command("push", "--tls-verify=false", "--compression-format", compression, name)
        return both(self.build(context, name), push)

    def save(self, context: pathlib.Path, tag: str, archive: pathlib.Path) -> Command:
        return self.command("push", "--disable-compression", f"localhost/{tag}", f"oci-archive:{archive}")


class Docker(Program):
    """The Docker engine. Its build cache and its unused images are pruned, so it is measured only when asked for."""

    name = "Docker"
    peak_is = "the docker command and the engine, each one's peak, without its steps"

    def __init__(self, scratch: pathlib.Path, address: str):
        super().__init__(scratch)
        self.address = address

    def version(self) -> str:
        return "Docker " + first_line(["docker", "version", "--format", "{{.Server.Version}}"], self.environment())

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(DOCKER_BUILDKIT="1", DOCKER_HOST=self.address, **more)

    def empty_store(self) -> None:
        for prune in (
            ["docker", "image", "prune", "--all", "--force"],
            ["docker", "builder", "prune", "--all", "--force"],
        ):
            subprocess.run(prune, env=self.environment(), check=True, stdout=subprocess.DEVNULL)

    def build(self, context: pathlib.Path, tag: str) -> Command:
        arguments = ["docker", "build", "--progress", "plain", "--network", "host", "-t", tag, str(context)]
        return Command(arguments, self.environment())

    def build_and_push(self, context: pathlib.Path, name: str, compression: str) -> Command | None:
        push = Command(["docker", "push", name], self.environment())
        return both(self.build(context, name), push) if compression == "gzip" else None

    def save(self, context: pathlib.Path, tag: str, archive: pathlib.Path) -> Command:
        return Command(["docker", "save", "-o", str(archive), tag], self.environment())

    def daemon(self) -> int | None:
        return machine.listener_pid(self.address)
