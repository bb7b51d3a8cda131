"""The machine under the benches: timing one process, waiting for quiet, the loop file that carries the stores.

Owns everything that asks the kernel something. Knows no workload and no program by name.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

MIB = 1024 * 1024

# Runs one command and reports its wall time and rusage. It is a process of its own because Linux lets a child's
# ru_maxrss start at the resident size of whoever started it: this small interpreter keeps that floor near 10 MB,
# where the harness itself, having hashed images, would lend the child ten times as much.
LAUNCHER = """
import json, os, sys, time
report, output, *argv = sys.argv[1:]
log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
files += [(os.POSIX_SPAWN_DUP2, log, stream) for stream in (1, 2)]
begin = time.monotonic()
pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=files)
_, status, usage = os.wait4(pid, 0)
seconds = time.monotonic() - begin
with open(report, "w") as file:
    json.dump([seconds, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024], file)
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """What to start: the arguments, the whole environment (nothing is inherited), and as whom; `None` is the caller."""

    arguments: list[str]
    environment: dict[str, str]
    user: str | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
    """One process that succeeded. `peak`: the largest resident set, in bytes, of it or a descendant it waited for."""

    seconds: float
    peak: int


def run_timed(command: Command, limit: float) -> Timing:
    """Runs `command` to its end; raises `OSError` if it cannot start, fails, or takes more than `limit` seconds."""
    with tempfile.TemporaryDirectory(prefix="timing-") as directory:
        report, output = pathlib.Path(directory, "report"), pathlib.Path(directory, "output")
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report), str(output), *command.arguments]
        identity = {}
        if command.user:
            identity = {"user": command.user, "group": command.user, "extra_groups": []}
            give_to(command.user, pathlib.Path(directory))
        process = subprocess.Popen(launcher, env=command.environment, start_new_session=True, **identity)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired as expired:
            raise TimeoutError(f"{command.arguments[0]} did not end within {limit:.0f} s") from expired
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not report.exists():
            raise OSError(f"{command.arguments[0]} could not be started")
        seconds, exit_code, peak = json.loads(report.read_text())
        if exit_code != 0:
            last = " | ".join(output.read_text(errors="replace").strip().splitlines()[-3:])
            raise OSError(f"{command.arguments[0]} ended with exit code {exit_code}: {last}")
        return Timing(seconds, peak)


def give_to(user: str, *paths: pathlib.Path) -> None:
    """Makes `paths` belong to `user` and the group of that name."""
    for path in paths:
        shutil.chown(path, user, user)


def busy_share(interval: float) -> float:
    """The share of processor time, 0 to 1, not idle in the next `interval` seconds; waiting for a disk is busy."""

    def snapshot() -> tuple[int, int]:
        ticks = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return ticks[3], sum(ticks)

    idle, total = snapshot()
    time.sleep(interval)
    idle_after, total_after = snapshot()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def settle(limit: float) -> bool:
    """Writes dirty pages back, then waits until the machine is idle. False if it is not so within `limit` seconds."""
    os.sync()
    deadline = time.monotonic() + limit
    while busy_share(0.25) > 0.1:
        if time.monotonic() > deadline:
            return False
    return True


def listener_pid(address: str) -> int | None:
    """The process that listens on a `unix://` socket; None where it cannot be told (another kind of address)."""
    if not address.startswith("unix://"):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address.removeprefix("unix://"))
        except OSError:
            return None
        size = struct.calcsize("3i")
        return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]


def reset_peak(pid: int) -> None:
    """Lets the peak resident size of a running process start again from what it holds now (proc(5), clear_refs)."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_of(pid: int) -> int:
    """The peak resident size, in bytes, of a running process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"process {pid} reports no VmHWM")


def mount_of(path: pathlib.Path) -> tuple[str, str]:
    """The device and the type of the filesystem that holds `path`."""
    best = ("", "", "")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        if (path == pathlib.Path(point) or pathlib.Path(point) in path.parents) and len(point) >= len(best[0]):
            best = (point, device, kind)
    return best[1], best[2]


def has_journal(path: pathlib.Path) -> bool:
    """False for an ext4 without a journal, on which creating files is slow for minutes after a mass delete."""
    device, kind = mount_of(path.resolve())
    return kind != "ext4" or any(pathlib.Path("/proc/fs/jbd2").glob(f"{pathlib.Path(device).name}-*"))


def unmount_below(directory: pathlib.Path) -> None:
    """Unmounts what a program left mounted below `directory` (buildah binds its store onto itself)."""
    prefix = f"{directory.resolve()}/"
    points = [line.split()[1] for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(prefix)), reverse=True):
        subprocess.run(["umount", point], check=True)


@contextlib.contextmanager
def loop_filesystem(directory: pathlib.Path, gibibytes: int):
    """A journaled ext4 in a file below `directory`, mounted with direct I/O; unmounted and deleted at the end."""
    file, point = directory / "stores.ext4", directory / "stores"
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: file.unlink(missing_ok=True))
        with file.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, gibibytes * 1024 * MIB)
        # Else the kernel goes on writing the tables during the samples.
        eager = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", eager, str(file)], check=True)
        attach = ["losetup", "--find", "--show", "--direct-io=on", str(file)]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        undo.callback(lambda: subprocess.run(["losetup", "--detach", device], check=True))
        point.mkdir()
        subprocess.run(["mount", device, str(point)], check=True)
        undo.callback(lambda: subprocess.run(["umount", str(point)], check=True))
        yield point
