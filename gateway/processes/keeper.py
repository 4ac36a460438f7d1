"""Keeps one background process: starts it, keeps the end of what it writes, notes how it ended.

    python -I -S keeper.py DIRECTORY

A program of its own, so that the command outlives the gateway and its exit status is known all the
same. It imports little of the standard library and nothing else: one of these runs for each
process. In its directory:

    spec.json       what to start; deleted once it is read, for it holds the environment
    status.json     replaced whole and synced: when the command has started, and when it has ended
    output.OFFSET   what it wrote from that offset on; the two newest are kept, each half the bound
    stdin           a FIFO: what is written into it goes to the command

It starts nothing before it has read a byte on its standard input: where that ends without one,
whoever asked for it is gone, and it goes too. On its standard output it says a line: `started`, or
why not. SIGTERM ends the command and all of its session, also the groups of a shell's job control;
SIGUSR1 closes the command's input.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINGER_S = 2.0
"""How long what the command leaves in its session may go on after its end, then it is ended too."""
STUCK_S = 5.0
"""A killed process is gone at once, but where the kernel itself waits for a device."""
LONGEST_WAIT_S = 86_400.0
"""`poll` takes no more than 2^31 - 1 milliseconds at once, which is less than 25 days."""
MAX_SWEEPS = 100
"""How often it is looked for more to kill: who forks all the time might outrun it."""
PIECE_BYTES = 65_536
MAX_DRAINED = 16
"""Pieces read after the end: more than a pipe holds; one who got away may write for ever."""
KEPT_FILES = 2
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How files are opened: whatever the command has put in their place must not hold the keeper up."""
NOT_ASKED = "the gateway stopped before it was started"

_libc = ctypes.CDLL(None)


class Output:
    """What the command wrote, in two files; the older half goes when the newer one is full.

    Where a write has failed, nothing goes before a newer one has succeeded.
    """

    def __init__(self, max_bytes: int) -> None:
        self.total_bytes = 0
        self._segment_bytes = max(1, max_bytes // 2)
        self._offsets: list[int] = []
        self._file = -1
        self._left = 0
        self._empty = self._failed = False

    def write(self, piece: bytes) -> None:
        """Keep a piece; on a full disk it is only counted, and what is kept already stays."""
        view = memoryview(piece)
        while view:
            part = view[: self._left or self._segment_bytes]
            try:
                if not self._left:
                    self._next_segment()
                written = os.write(self._file, part)
                self._left -= written
                self._empty = self._failed = False
                self._drop(KEPT_FILES)
            except OSError:
                # What comes later begins a new file, whose name says where.
                self._left, written = 0, len(part)
                self._failed = True
            self.total_bytes += written
            view = view[written:]

    def _next_segment(self) -> None:
        name = f"output.{self.total_bytes}"
        if self._empty:
            self._empty = False
            os.rename(f"output.{self._offsets.pop()}", name)
        else:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            if not self._failed:
                self._drop(KEPT_FILES - 1)
            self._file = os.open(name, NEW_FILE, 0o600)
        self._offsets.append(self.total_bytes)
        self._empty = True
        self._left = self._segment_bytes

    def _drop(self, most: int) -> None:
        while len(self._offsets) > most:
            os.unlink(f"output.{self._offsets.pop(0)}")


class Input:
    """What is written into the FIFO, on its way to the command."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        os.set_blocking(pipe, False)
        os.mkfifo("stdin", 0o600)
        # Open for writing too: it never ends, however many come and go.
        self._fifo = os.open("stdin", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._pending = b""
        self._ends = False

    def register(self, poll: select.poll) -> None:
        """Say what is waited for."""
        if self._pipe < 0:
            return
        # Without an event a pipe still tells that nobody reads it any more.
        poll.register(self._pipe, select.POLLOUT if self._pending else 0)
        if not self._pending:
            poll.register(self._fifo, select.POLLIN)

    def feed(self) -> None:
        """Copy what can be copied now."""
        while self._pipe >= 0:
            if not self._pending:
                try:
                    self._pending = os.read(self._fifo, PIECE_BYTES)
                except BlockingIOError:
                    if self._ends:
                        self.close()
                    return
            try:
                self._pending = self._pending[os.write(self._pipe, self._pending) :]
            except BlockingIOError:
                return
            except OSError:
                self.close()

    def end(self) -> None:
        """Close it once all that was written has been copied."""
        self._ends = True
        self.feed()

    def notice(self, descriptor: int, events: int) -> None:
        """Close it where the command reads no more."""
        if descriptor == self._pipe and events & (select.POLLERR | select.POLLHUP):
            self.close()

    def close(self) -> None:
        """Take no more; who writes into the FIFO is told."""
        if self._pipe >= 0:
            os.close(self._pipe)
            os.close(self._fifo)
            self._pipe = -1


class Keeper:
    """The command from its start to the end of the last of its session."""

    def __init__(self, spec: dict[str, object]) -> None:
        self._timeout_s = float(str(spec["timeout_s"]))
        self._grace_s = float(str(spec["grace_s"]))
        self._output = Output(int(str(spec["max_output_bytes"])))
        self._boot_id = spec["boot_id"]
        self._signals, wake = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        self._child = 0
        self._exit: int | None = None
        self._reason = "exited"
        self._deadline: float | None = None
        self._at_deadline = self._time_out
        self._over = False
        self._look = False
        self._pipe = -1
        self._input: Input | None = None

    def start(self, spec: dict[str, object]) -> str:
        """Start the command; return why it could not be, empty where it runs."""
        argv = [word.encode("latin-1") for word in spec["argv"]]  # type: ignore[attr-defined]
        given = spec["env"].items()  # type: ignore[attr-defined]
        env = {name.encode("latin-1"): value.encode("latin-1") for name, value in given}
        cwd = str(spec["cwd"]).encode("latin-1")
        stdin, feeding = os.pipe()
        self._input = Input(feeding)
        self._pipe, stdout = os.pipe()
        told, telling = os.pipe()
        keeper = os.getpid()
        self._child = os.fork()
        if not self._child:
            become(argv, env, cwd, (stdin, stdout, telling), keeper)
        for descriptor in (stdin, stdout, telling):
            os.close(descriptor)
        failure = os.read(told, PIECE_BYTES).decode("utf-8", "replace")
        os.close(told)
        if failure:
            os.waitpid(self._child, 0)
            return failure

        os.set_blocking(self._pipe, False)
        replace("status.json", self._status({}))
        return ""

    def fail(self, detail: str) -> None:
        """Note that nothing was started, and why."""
        self._reason = "failed"
        self._write_end(detail)

    def keep(self) -> None:
        """Return once the command and its session have ended, and that is noted."""
        if self._timeout_s:
            self._deadline = time.monotonic() + self._timeout_s
        while not self._over:
            self._wait()
        self._drain()
        self._write_end("")

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if self._pipe >= 0:
            poll.register(self._pipe, select.POLLIN)
        if self._input:
            self._input.register(poll)
        left_s = LONGEST_WAIT_S if self._deadline is None else self._deadline - time.monotonic()
        for descriptor, events in poll.poll(max(0.0, min(left_s, LONGEST_WAIT_S)) * 1000):
            if descriptor == self._pipe:
                self._read()
            elif descriptor == self._signals:
                self._heed()
            elif self._input:
                self._input.notice(descriptor, events)
        if self._input:
            self._input.feed()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._at_deadline()
            self._look = True
        if self._look and self._exit is not None:
            self._over = self._over or not self._members()
        self._look = False

    def _read(self) -> bool:
        """Take a piece of output; False where there is none now."""
        try:
            piece = os.read(self._pipe, PIECE_BYTES)
        except BlockingIOError:
            return False

        if piece:
            self._output.write(piece)
        else:
            os.close(self._pipe)
            self._pipe = -1
            self._look = True
        return bool(piece)

    def _heed(self) -> None:
        numbers = os.read(self._signals, PIECE_BYTES)
        if signal.SIGUSR1 in numbers and self._input:
            self._input.end()
        if signal.SIGCHLD in numbers:
            self._reap()
            self._look = True
        if signal.SIGTERM in numbers and self._at_deadline == self._time_out:
            self._reason = "stopped"
            self._terminate()
        elif signal.SIGTERM in numbers and self._at_deadline == self._terminate:
            self._terminate()

    def _reap(self) -> None:
        """Note the command's end; it stays unreaped, so that its number stays taken."""
        while self._exit is None:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid != self._child:
                os.waitpid(ended.si_pid, os.WNOHANG)
                continue

            exited = ended.si_code == os.CLD_EXITED
            self._exit = ended.si_status if exited else -ended.si_status
            if self._at_deadline == self._time_out:
                self._deadline = time.monotonic() + LINGER_S
                self._at_deadline = self._terminate

    def _time_out(self) -> None:
        self._reason = "timed_out"
        self._terminate()

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        # One that is stopped would never hear of it.
        self._signal(signal.SIGCONT)
        self._deadline = time.monotonic() + self._grace_s
        self._at_deadline = self._kill

    def _kill(self) -> None:
        killed: set[int] = set()
        for _ in range(MAX_SWEEPS):
            # Again, for what was forked meanwhile; who is killed forks no more.
            found = self._signal(signal.SIGKILL)
            if found <= killed:
                break
            killed |= found
        self._deadline = time.monotonic() + STUCK_S
        self._at_deadline = self._give_up

    def _give_up(self) -> None:
        self._over = True

    def _signal(self, number: int) -> set[int]:
        """Signal all of the session but the keeper, its leader; return who was there."""
        try:
            # At once, so that none of them forks meanwhile.
            os.killpg(self._child, number)
        except OSError:
            pass  # gone, or it became another user's
        members = self._members()
        for process, group in members.items():
            if group != self._child:
                send(process, number)
        return set(members)

    def _members(self) -> dict[int, int]:
        """Return the group of each who lives in the session beside the keeper; reaps orphans."""
        me = os.getpid()
        members = {}
        for name in os.listdir("/proc"):
            fields = stat_of(name) if name.isdigit() else None
            if fields is None or int(name) == me:
                continue
            state, parent, group, session = fields[0], *map(int, fields[1:4])
            if state in "ZX":
                if parent == me and int(name) != self._child:
                    os.waitpid(int(name), os.WNOHANG)
            elif session == me:
                members[int(name)] = group
        return members

    def _drain(self) -> None:
        for _ in range(MAX_DRAINED):
            if self._pipe < 0 or not self._read():
                break

    def _write_end(self, detail: str) -> None:
        end: dict[str, object] = {
            "exit_status": self._exit,
            "end_reason": self._reason,
            "detail": detail,
            "ended_at": time.time(),
            "output_bytes": self._output.total_bytes,
        }
        while not replace("status.json", self._status(end)):
            # How it ended is not known otherwise: a full disk is waited out.
            time.sleep(1)

    def _status(self, more: dict[str, object]) -> bytes:
        me = os.getpid()
        status: dict[str, object] = {
            "keeper": {"pid": me, "start_ticks": start_ticks(me)},
            "child": {"pid": self._child, "start_ticks": start_ticks(self._child)},
            "boot_id": self._boot_id,
            **more,
        }
        return json.dumps(status).encode()


def become(
    argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, pipes: tuple[int, int, int], keeper: int
) -> None:
    """Be the command, which dies with the keeper, in a group of its own; else tell why not."""
    stdin, stdout, telling = pipes
    place = cwd
    try:
        os.setpgid(0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != keeper:
            os._exit(127)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        for number, descriptor in enumerate((stdin, stdout, stdout)):
            os.dup2(descriptor, number)
        os.chdir(cwd)
        place = argv[0]
        os.execvpe(argv[0], argv, env)
    except OSError as exc:
        what = os.strerror(exc.errno or errno.EIO)
        os.write(telling, place.decode("utf-8", "replace").encode() + b": " + what.encode())
    finally:
        os._exit(127)


def replace(name: str, content: bytes) -> bool:
    """Replace a file whole and for good; False where the disk has no space for it."""
    aside = name + ".tmp"
    try:
        file = os.open(aside, NEW_FILE, 0o600)
        try:
            os.write(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(aside, name)
        place = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(place)
        finally:
            os.close(place)
    except OSError as exc:
        return exc.errno not in {errno.ENOSPC, errno.EDQUOT}
    return True


def send(process: int, number: int) -> None:
    """Signal a process if it is of this session: its number may be another's by now."""
    try:
        descriptor = os.pidfd_open(process)
    except OSError:
        return
    try:
        fields = stat_of(process)
        if fields is not None and int(fields[3]) == os.getpid():
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass  # gone, or it became another user's
    finally:
        os.close(descriptor)


def stat_of(process: int | str) -> list[str] | None:
    """Return what the kernel says of a process from its state on; None where there is none."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return None


def start_ticks(process: int) -> int | None:
    """Return when a process started, in ticks since the machine did."""
    fields = stat_of(process)
    return None if fields is None else int(fields[19])


def main(directory: str) -> None:
    """Keep the process of a directory."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir(directory)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    with open("spec.json", "rb") as file:
        spec = json.loads(file.read())
    os.unlink("spec.json")
    keeper = Keeper(spec)
    if not os.read(0, 1):
        keeper.fail(NOT_ASKED)
        return

    failure = keeper.start(spec)
    if failure:
        keeper.fail(failure)
    try:
        os.write(1, (failure or "started").encode("utf-8", "replace") + b"\n")
    except OSError:
        pass  # who asked is gone; the start was theirs
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)
    if not failure:
        keeper.keep()


if __name__ == "__main__":
    main(*sys.argv[1:])
