"""What runs on the untrusted side of `grading.sandbox`: shut the door, then serve functions.  The
standard library only.

`python -I inside.py enter` reads its settings as one line of JSON, moves itself into an empty file
system without network, and becomes `serve`: requests come as lines of JSON, replies go as lines of
JSON, and no object of either side ever meets the other.
"""

import contextlib
import ctypes
import errno
import io
import json
import os
import platform
import resource
import signal
import struct
import sys
import traceback

UNAVAILABLE = 77  # exit status: this machine does not let a process shut itself in
_CLONE_THREAD = 0x10000
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PIDS, _NEW_NETWORK = (
    0x20000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_BIND, _MS_RECURSIVE, _MS_PRIVATE, _MS_NOSUID_NODEV = 0x1000, 0x4000, 0x40000, 0x6
_READ_ONLY, _AT_RECURSIVE, _AT_FDCWD, _DETACH = 0x1, 0x8000, -100, 2
_MOUNT_SETATTR = 442  # of every architecture
# pivot_root and clone, then what is refused: processes, signals to others, leaving the group that
# the grader kills, sockets, memory that no limit counts, ways out
_CALLS = {
    "x86_64": (0xC000003E, 155, 56, (57, 58, 59, 322, 62, 200, 234, 129, 297, 109, 112, 157, 41,
                                     53, 42, 101, 310, 311, 165, 166, 272, 308, 321, 298, 323, 248,
                                     250, 319, 29, 304)),
    "aarch64": (0xC00000B7, 41, 220, (221, 281, 129, 130, 131, 138, 240, 154, 157, 167, 198, 199,
                                      203, 117, 270, 271, 40, 39, 97, 268, 280, 241, 282, 217, 219,
                                      279, 194, 265)),
}  # fmt: skip
_CALLS_OF_BOTH = (424, 425, 428, 429, 430, 434, 438, 442)  # pidfd, io_uring, the new mount calls
_IS_LINUX = sys.platform == "linux" and platform.machine() in _CALLS
_libc = ctypes.CDLL(None, use_errno=True)


# --- shutting the door ----------------------------------------------------------------------------


def enter() -> None:
    """Read the settings, isolate this process, and become `serve`."""
    settings = json.loads(
        io.FileIO(0, closefd=False).readline()
    )  # unbuffered: what follows is for the program it becomes
    with open(__file__) as file:
        source = file.read()
    if _IS_LINUX:
        _libc.prctl(1, signal.SIGKILL)  # die with the grader
    if settings["isolated"]:
        if not _IS_LINUX:
            print(
                f"it needs Linux on {' or '.join(_CALLS)}, "
                f"this is {sys.platform} on {platform.machine()}",
                file=sys.stderr,
            )
            os._exit(UNAVAILABLE)
        try:
            _new_namespaces()
            child = os.fork()  # the first process of the new process table
            if child:
                signal.signal(
                    signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL)
                )  # so that somebody waits for it
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
            _libc.prctl(1, signal.SIGKILL)  # die with the process that started this one
            _new_root(settings)
        except OSError as error:
            print(f"the kernel refuses {error.filename}: {error.strerror}", file=sys.stderr)
            os._exit(UNAVAILABLE)
    else:
        _write_files(settings["scratch"], settings["files"])
        os.chdir(settings["scratch"])
    _limit(settings)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {"PATH": "/usr/bin", "HOME": os.getcwd(), "LANG": "C.UTF-8", **one_thread}
    os.execve(sys.executable, [sys.executable, "-I", "-c", source, "serve"], environment)


def _new_namespaces() -> None:
    user, group = os.getuid(), os.getgid()
    _check(
        _libc.unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK | _NEW_PIDS | _NEW_IPC),
        "new namespaces",
    )
    # not root inside, so that the exec that follows drops every capability
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"1000 {user} 1"),
        ("gid_map", f"1000 {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _new_root(settings: dict) -> None:
    """A file system in memory that holds Python, read only, and the files of the exercise; nothing
    else is left to open."""
    root = settings["root"]
    _mount(None, "/", None, _MS_RECURSIVE | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID_NODEV, "size=64m,nr_inodes=10000,mode=755")
    for path in settings["shown"]:
        os.makedirs(root + path, exist_ok=True)
        _mount(path, root + path, None, _MS_BIND | _MS_RECURSIVE)
    for path in settings["hidden"]:
        _mount("tmpfs", root + path, "tmpfs", _MS_NOSUID_NODEV, "size=64k")
    for path in settings["shown_again"]:
        os.makedirs(root + path, exist_ok=True)
        _mount(path, root + path, None, _MS_BIND | _MS_RECURSIVE)
    for path, target in settings["links"].items():
        os.symlink(target, root + path)
    os.makedirs(root + "/dev")
    for device in ("/dev/null", "/dev/urandom"):
        open(root + device, "w").close()
        _mount(device, root + device, None, _MS_BIND)
    for path in settings["shown"] + settings["shown_again"]:
        attributes = ctypes.create_string_buffer(struct.pack("QQQQ", _READ_ONLY, 0, 0, 0))
        target = ctypes.c_char_p((root + path).encode())
        _check(
            _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, target, _AT_RECURSIVE, attributes, 32),
            f"{path} read only",
        )
    _write_files(root + "/scratch", settings["files"])
    os.chdir(root)
    _check(_libc.syscall(_CALLS[platform.machine()][1], b".", b"."), "a root of its own")
    _check(_libc.umount2(b".", _DETACH), "to leave the old root")
    os.chdir("/scratch")


def _write_files(folder: str, files: dict) -> None:
    os.makedirs(folder, exist_ok=True)
    for name, text in files.items():
        with open(os.path.join(folder, os.path.basename(name)), "w") as file:
            file.write(text)


def _mount(source, target, kind, flags, data=None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _check(_libc.mount(*given[:3], ctypes.c_ulong(flags), given[3]), f"to mount {target}")


def _check(status: int, what: str) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _limit(settings: dict) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, settings["memory"]),
        (resource.RLIMIT_CPU, settings["seconds"]),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(
            ValueError
        ):  # the user's own limit is lower, or the system has none
            resource.setrlimit(kind, (most, most))


def forbid_system_calls() -> None:
    """A filter, for the rest of this process's life: no new process, signal to another, socket or
    mount."""
    architecture, _, clone, calls = _CALLS[platform.machine()]
    refuse, missing, allow = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x7FFF0000
    load, equal, at_least, has, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),
    ]
    program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse)]
    for number in (*calls, *_CALLS_OF_BOTH):
        program += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    program += [
        (equal, 0, 1, 435),
        (answer, 0, 0, missing),
    ]  # clone3: the C library falls back on clone
    program += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),
        (has, 1, 0, _CLONE_THREAD),
        (answer, 0, 0, refuse),
    ]
    program += [(answer, 0, 0, allow)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    whole = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(packed)))
    _check(_libc.prctl(38, 1, 0, 0, 0), "to give up new privileges")
    _check(_libc.prctl(22, 2, whole, 0, 0), "the system call filter")


# --- values over the channel ----------------------------------------------------------------------


def encoded(value):
    """Numbers, text, None, lists, dicts, NumPy arrays and pandas tables as what JSON holds;
    TypeError for anything else."""
    home = type(value).__module__.split(".")[0]
    if home == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        return {"#array": encoded(plain)} if isinstance(plain, list) else plain
    if home == "pandas" and hasattr(value, "columns"):
        return {"#table": {str(name): encoded(value[name].tolist()) for name in value.columns}}
    if home == "pandas" and hasattr(value, "tolist"):
        return {"#array": encoded(value.tolist())}
    if isinstance(value, (list, tuple)):
        return [encoded(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: encoded(item) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"a value of type {type(value).__name__}; "
        "use numbers, text, lists, dicts by text, arrays or tables"
    )


def decoded(value):
    """The value that `encoded` made; arrays and tables come back as such."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"#array"}:
        import numpy as np

        return np.array(decoded(value["#array"]))
    if set(value) == {"#table"}:
        import pandas as pd

        return pd.DataFrame(decoded(value["#table"]))
    return {key: decoded(item) for key, item in value.items()}


# --- serving --------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until the channel closes: {"run": source, "cell": name} or {"call": name,
    "with": [args, named]}.

    The code shares this process, so it can write replies of its own: they say no more than a value
    that it returns would.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):  # what the code prints goes nowhere
        os.dup2(nothing, descriptor)
    if _IS_LINUX:
        forbid_system_calls()
    names = {"__name__": "notebook"}
    for line in requests:
        try:
            reply = {"value": encoded(_answer(json.loads(line), names))}
            text = json.dumps(reply)
        except BaseException as error:  # of untrusted code: SystemExit too
            text = json.dumps({"error": _told(error)})
        replies.write(text.encode() + b"\n")
        replies.flush()


def _answer(request: dict, names: dict):
    if "run" in request:
        exec(compile(request["run"], request["cell"], "exec"), names)
        return None
    if not callable(names.get(request["call"])):
        raise NameError(f"there is no function {request['call']!r}")
    arguments, named = decoded(request["with"])
    return names[request["call"]](*arguments, **named)


def _told(error: BaseException) -> str:
    """One line: the error, and the line of the notebook's cell that raised it."""
    if isinstance(error, MemoryError):
        return "MemoryError: it ran out of memory"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith("cell ")
    ]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    message = str(error)[:300].splitlines()
    return f"{type(error).__name__}: {message[0] if message else ''}".rstrip(": ") + where


if __name__ == "__main__":
    {"enter": enter, "serve": serve}[sys.argv[1]]()
