"""The small program that an engine runs under: `python -I -S shim.py FOLDER LOG_BYTES`.

It is in nobody's session, so that it outlives the daemon; it copies what the engine writes into a log of bounded size, writes down
who it is and how it ended, and ends whatever the engine left behind. If the shim is killed, the kernel kills the engine with it.

Standard input holds the launch: the number of arguments, the arguments, the environment, each closed by a zero byte. To standard
output goes one line: `started` or `failed <errno>`. SIGTERM asks the engine to end, SIGUSR1 ends it by force.

Every engine has one of these for as long as it lives. So it imports nothing but small modules of the standard library (11 MB
resident, half of them shared with every other Python), and nothing of Nebula.
"""

# pathlib would bring in more than all that this program imports.
# ruff: noqa: PTH105, PTH108, PTH123, PTH208

import ctypes
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MAX_FILES = 1024 * 1024  # programs that close all descriptors one by one hang where the hard limit is a thousand times this
CHUNK = 64 * 1024
TIDY_S = 2.0


def main() -> None:
    """Run one engine from start to end."""
    folder, log_bytes = os.fsencode(sys.argv[1]), int(sys.argv[2])
    close_inherited()
    argv, env = read_launch()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    raise_file_limit()
    signals = catch_signals()
    output, engine_output = os.pipe()
    engine = Engine(argv, env, engine_output)
    os.close(engine_output)
    write_file(folder, b"handle", f"{boot_id()}\n{identity(os.getpid())}\n{identity(engine.pid)}\n{os.fstat(output).st_ino}\n")
    # Written before the engine is let go: there is never one that no handle tells of.
    failure = engine.release()
    if failure or not report("started\n"):
        end_descendants()
        os.unlink(folder + b"/handle")
        if failure:
            report(f"failed {failure}\n")
        return
    quiet()
    log = Log(folder, log_bytes)
    status = watch(engine, output, signals, log)
    await_descendants(TIDY_S)
    end_descendants()
    drain(output, log)
    write_file(folder, b"exit", f"{os.waitstatus_to_exitcode(status)}\n")


class Engine:
    """The engine's process: in a session of its own, stopped just before it becomes the program until it is let go."""

    def __init__(self, argv: list[bytes], env: dict[bytes, bytes], output: int) -> None:
        released, self._release = os.pipe()
        self._failure, failed = os.pipe()
        shim = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._release)
            become(argv, env, output, shim, released, failed)
        os.close(released)
        os.close(failed)

    def release(self) -> int:
        """Let it become the program; 0, or the errno that says why it could not."""
        os.write(self._release, b"\n")
        os.close(self._release)
        answer = os.read(self._failure, 16)
        os.close(self._failure)
        return int(answer or b"0")

    def signal(self, number: int) -> None:
        """Signal it and all in its process group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def become(argv: list[bytes], env: dict[bytes, bytes], output: int, shim: int, released: int, failed: int) -> None:
    """In the forked child: become the engine. Never returns."""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        # No byte: the shim has died. Another parent: it died before its death could be a signal.
        if not os.read(released, 1) or os.getppid() != shim:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(failed, b"%d" % (error.errno or 0))
    finally:
        os._exit(127)


def watch(engine: Engine, output: int, signals: int, log: "Log") -> int:
    """Copy the engine's output and pass signals on until it ends; its wait status."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(signals, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            data = os.read(fd, CHUNK)
            if fd == signals:
                for number in data:
                    if number == signal.SIGTERM:
                        engine.signal(signal.SIGTERM)
                    elif number == signal.SIGUSR1:
                        engine.signal(signal.SIGKILL)
                if (status := reap(engine.pid)) is not None:
                    return status
            elif data:
                log.write(data)
            else:
                poll.unregister(output)


def reap(engine: int) -> "int | None":
    """Collect all children that have ended, also those that the engine left to us; the engine's status if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == engine:
            return status
        if pid == 0:
            return None


def await_descendants(seconds: float) -> None:
    """Give what the engine leaves behind a moment to end by itself: Python's resource tracker removes shared memory then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.02)


def end_descendants() -> None:
    """Kill every child, and the children that each leaves to us, until there is none: also those in sessions of their own."""
    while True:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children() -> list[int]:
    """Processes whose parent is this one."""
    parent = str(os.getpid())
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if stat(name)[1] == parent:
                    found.append(int(name))
            except OSError:
                continue  # it has ended meanwhile
    return found


def drain(output: int, log: "Log") -> None:
    """Copy what is left in the pipe; nobody writes any more."""
    os.set_blocking(output, False)
    while True:
        try:
            data = os.read(output, CHUNK)
        except BlockingIOError:
            return  # a process that is no descendant was handed the pipe: not ours to wait for
        if not data:
            return
        log.write(data)


class Log:
    """The engine's output, in a file that is set aside once it is large; of those, one is kept."""

    def __init__(self, folder: bytes, limit: int) -> None:
        self._path, self._limit = folder + b"/log", limit
        self._open()
        self.write(time.strftime("--- nebula: started %Y-%m-%d %H:%M:%S %z\n").encode())

    def write(self, data: bytes) -> None:
        """Append; where that fails (the disk is full), the piece is lost rather than the engine held up."""
        try:
            if self._size + len(data) > self._limit:
                os.close(self._file)
                os.replace(self._path, self._path + b".old")
                self._open()
            self._size += os.write(self._file, data)
        except OSError:
            return

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._file).st_size


def catch_signals() -> int:
    """A descriptor that the numbers of arriving signals can be read from."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def read_launch() -> "tuple[list[bytes], dict[bytes, bytes]]":
    """The engine's arguments and environment, from standard input."""
    with open(0, "rb", closefd=False) as launch:
        count, *words = launch.read().split(b"\0")[:-1]
    pairs = (word.partition(b"=") for word in words[int(count) :])
    return words[: int(count)], {name: value for name, _, value in pairs}


def report(line: str) -> bool:
    """Tell the daemon; false if it is gone."""
    try:
        os.write(1, line.encode())
    except OSError:
        return False
    return True


def quiet() -> None:
    """Let go of the daemon's pipe."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)


def write_file(folder: bytes, name: bytes, text: str) -> None:
    """Write a file whole or not at all."""
    path = folder + b"/" + name
    file = os.open(path + b".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(file, text.encode())
    os.close(file)
    os.replace(path + b".new", path)


def boot_id() -> str:
    """Names this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def identity(pid: int) -> str:
    """A process's id and when it started, in clock ticks since boot."""
    return f"{pid} {stat(str(pid))[19]}"


def stat(pid: str) -> list[str]:
    """`/proc/<pid>/stat` after the command, which may hold spaces and brackets: state, parent, …"""
    with open(f"/proc/{pid}/stat") as file:
        text = file.read()
    return text[text.rindex(")") + 2 :].split()


def close_inherited() -> None:
    """Close what the daemon happened to have open for others: a port it listens on must not stay taken by an engine."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, soft)


def raise_file_limit() -> None:
    """Engines hold a socket per request; the usual soft limit of 1,024 files is for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def prctl(option: int, value: int) -> None:
    """Linux's `prctl`, which the standard library lacks."""
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    main()
