"""Runs one program under limits: a script of its own, started with `python -I -S sandbox.py PROGRAM`.

PROGRAM is a JSON file with `code`, `tests`, `token`, `seconds` and `bytes`, deleted before the code runs. The token is
written to standard output once the code and then its tests have run without an exception. The code may compute and
read files. It may not use the network, start a process, signal another one, or create, change or delete a file.

On Linux (x86-64 and arm64) the kernel refuses the system calls for these. Elsewhere only Python's audit hook does,
which stops mistakes but not an attack.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # the latter is "return EPERM"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Numbers of system calls. Those of "files by path" have no arm64 number: there only the forms with a folder exist.
_X86_64 = {
    "network": [41, 42, 43, 44, 46, 47, 49, 50, 53, 288, 299, 307],
    "processes": [56, 57, 58, 59, 62, 101, 129, 200, 234, 297, 310, 311, 322, 424, 434, 435, 438],
    "kernel": [155, 160, 161, 165, 166, 169, 175, 176, 246, 248, 249, 250, 272, 298, 302, 308, 313, 321, 323],
    "queues, mounts and handles": [304, 425, 426, 427, 428, 429, 430, 431, 432, 433, 437, 442],
    "files": [76, 77, 92, 93, 94, 188, 189, 190, 197, 198, 199, 258, 259, 260, 263, 264, 265, 266, 268, 280, 285, 316],
    "files by path": [82, 83, 84, 85, 86, 87, 88, 90, 91, 132, 133, 235, 261, 452],
}
_ARM64 = {
    "network": [198, 199, 200, 201, 202, 203, 206, 207, 211, 212, 242, 243, 269],
    "processes": [117, 129, 130, 131, 138, 220, 221, 240, 270, 271, 281, 424, 434, 435, 438],
    "kernel": [39, 40, 41, 51, 97, 104, 105, 106, 142, 164, 217, 218, 219, 241, 261, 268, 273, 280, 282],
    "queues, mounts and handles": [265, 425, 426, 427, 428, 429, 430, 431, 432, 433, 437, 442],
    "files": [5, 6, 7, 14, 15, 16, 33, 34, 35, 36, 37, 38, 45, 46, 47, 52, 53, 54, 55, 88, 276, 452],
}
# machine -> AUDIT_ARCH, system calls to refuse, and the index of the argument with the flags of each open
_MACHINES = {
    "x86_64": (0xC000003E, _X86_64, {2: 1, 257: 2}),
    "aarch64": (0xC00000B7, _ARM64, {56: 2}),
    "arm64": (0xC00000B7, _ARM64, {56: 2}),
}
_REFUSED_EVENTS = (
    "socket.", "subprocess.", "ctypes.", "shutil.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown",
    "os.truncate", "os.utime", "os.putenv", "os.setxattr", "os.removexattr", "pty.", "signal.pthread_kill",
)  # fmt: skip


def run(program: dict) -> bool:
    """Set the limits, run the code and its tests, and return whether both ran without an exception."""
    _limit(program["seconds"], program["bytes"])
    refuse_system_calls()
    sys.addaudithook(_audit)
    namespace: dict = {"__name__": "program"}
    try:
        exec(compile(program["code"], "program", "exec"), namespace)
        exec(compile(program["tests"], "tests", "exec"), namespace)
    except BaseException:  # SystemExit too: a program that ends early has not passed
        return False
    return True


def _limit(seconds: int, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def refuse_system_calls() -> bool:
    """Make the kernel refuse the system calls above with EPERM, for good. Return whether it does."""
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        return False
    code = _filter(*machine)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    library = ctypes.CDLL(None, use_errno=True)
    library.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    program = Program(len(code) // 8, code)
    no_new_privileges = library.prctl(_PR_SET_NO_NEW_PRIVS, 1, None, 0, 0) == 0
    return no_new_privileges and (
        library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0) == 0
    )


def _filter(architecture: int, calls: dict[str, list[int]], opens: dict[int, int]) -> bytes:
    """Return the BPF program: refuse other architectures, the calls, and opens with a flag for writing."""
    load, equal, any_bit, at_least, end = 0x20, 0x15, 0x45, 0x35, 0x06
    refuse, allow = (end, 0, 0, _REFUSE), (end, 0, 0, _ALLOW)
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), refuse, (load, 0, 0, 0)]
    lines += [(at_least, 0, 1, 0x40000000), refuse]  # the x32 numbers of x86-64
    for number in sorted(number for numbers in calls.values() for number in numbers):
        lines += [(equal, 0, 1, number), refuse]
    for number, argument in opens.items():
        lines += [(equal, 0, 4, number), (load, 0, 0, 16 + 8 * argument), (any_bit, 0, 1, _WRITING), refuse, allow]
    return b"".join(struct.pack("HBBI", *line) for line in [*lines, allow])


def _audit(event: str, arguments: tuple) -> None:
    if event == "open":
        _, mode, flags = arguments
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if writes or (isinstance(flags, int) and flags & _WRITING):
            raise PermissionError("a program may not write files")
    elif event.startswith(_REFUSED_EVENTS):
        raise PermissionError(f"a program may not do this: {event}")


def main() -> None:
    """Run the program named on the command line."""
    path = sys.argv[1]
    with open(path, encoding="utf-8") as file:
        program = json.load(file)
    os.unlink(path)
    token = program.pop("token").encode()
    result, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    passed = run(program)
    if passed:
        os.write(result, token)
    os._exit(0 if passed else 1)  # no handlers that the program registered


if __name__ == "__main__":
    main()
