"""What is left on a disk when the power fails, from a trace of the system calls that wrote to it.

A file's content is safe once the file was flushed after it was written, a name once its folder was, or its new file.
Everything else may be there or not, in any combination, and of the last write perhaps a part.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    *("openat", "write", "pwrite64", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2"),
)
"""The calls to trace: `strace -ff -y -xx -s 99999999 --absolute-timestamps=format:unix,precision:ns -e trace=…`."""

_LINE = re.compile(r"(\d+\.\d+) (\w+)\((.*)\) += (-?\d+)", re.DOTALL)
_FILE = re.compile(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2}|[^>])*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_SECTOR = 512


@dataclass(frozen=True)
class Op:
    """One system call that changes or flushes a file, or says something on standard output."""

    what: str
    path: str
    data: bytes = b""
    at: int = 0


def _text(value):
    return bytes.fromhex(value.replace("\\x", ""))


def _op(call, arguments, result):
    file, text = _FILE.match(arguments), _TEXT.search(arguments)
    path = file[1] if file else ""
    path = _text(path).decode() if path.startswith("\\x") else path
    numbers = [int(part) for part in re.findall(r", (\d+)(?=,|$)", arguments)]
    match call:
        case "write" if path.startswith("pipe:"):
            return Op("said", path, _text(text[1]))
        case "write":
            raise AssertionError(f"a write to {path} whose place is not known")
        case "pwrite64":
            return Op("write", path, _text(text[1])[:result], numbers[-1])
        case "fsync" | "fdatasync":
            return Op("flush", path)
        case "ftruncate":
            return Op("truncate", path, at=numbers[-1])
        case "openat" if "O_CREAT" in arguments:
            assert "O_TRUNC" not in arguments
            return Op("create", str(Path(path, _text(text[1]).decode())))
        case "openat":
            return None
        case "unlink":
            return Op("unlink", _text(text[1]).decode())
        case _:
            raise AssertionError(f"{call} is not simulated")


def ops(folder, prefix, within):
    """Return what the threads of a process did to the files of a folder, and said, in order."""
    found = []
    for path in Path(folder).glob(f"{prefix}.*"):
        for line in path.read_text().splitlines():
            match = _LINE.match(line)
            if match is not None and int(match[4]) >= 0:
                op = _op(match[2], match[3], int(match[4]))
                if op is not None and (op.what == "said" or Path(op.path).is_relative_to(within)):
                    found.append((match[1], op))
    return [op for _, op in sorted(found, key=lambda one: one[0])]


@dataclass
class Disk:
    """The files of one folder: what is safe of them, and what was done since."""

    folder: str
    safe: dict[str, bytes]
    pending: list[Op] = field(default_factory=list)

    def do(self, op):
        """Take a system call in."""
        if op.what == "said":
            return
        if op.what != "flush":
            if op.what != "create" or op.path not in self.names():
                self.pending.append(op)
            return
        names = {one.path for one in self.pending if one.what in ("create", "unlink")}
        safe, pending = dict(self.safe), []
        for one in self.pending:
            if one.path == op.path or (
                op.path == self.folder and one.path in names and one.what in ("create", "unlink")
            ):
                _done(safe, one)
            else:
                pending.append(one)
        self.safe, self.pending = safe, pending

    def names(self):
        """Return the files that there are as long as the power is on."""
        return self.left(lambda _: True).keys()

    def left(self, chosen):
        """Return the files that there are after the power failed; *chosen* says of each unsafe call what is left."""
        files = dict(self.safe)
        for op in self.pending:
            kept = chosen(op)
            if kept:
                _done(files, op if kept is True else Op(op.what, op.path, op.data[:kept], op.at))
        return files


def _done(files, op):
    if op.what == "create":
        files.setdefault(op.path, b"")
    elif op.what == "unlink":
        files.pop(op.path, None)
    elif op.path in files or op.what == "write":
        content = files.get(op.path, b"")
        if op.what == "truncate":
            files[op.path] = content[: op.at].ljust(op.at, b"\0")
        else:
            files[op.path] = content[: op.at].ljust(op.at, b"\0") + op.data + content[op.at + len(op.data) :]


def nothing(op):
    """Of what is not safe nothing is left."""
    del op
    return False


def some(chance):
    """Of what is not safe each call may be left, or not, or a write's first sectors."""

    def chosen(op):
        if op.what == "write" and chance.random() < 0.2:
            return chance.randrange(len(op.data) // _SECTOR + 1) * _SECTOR
        return chance.random() < 0.5

    return chosen
