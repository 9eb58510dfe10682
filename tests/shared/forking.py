"""Processes that are forked by one that has imported all that they need, so that Python starts once.

`Forking(path)` starts that one with a Python file: each process does what its function `work` does with the arguments
that it is sent, and has a standard input and output of its own. What the one is asked comes through a socket, and is
answered: a list of arguments, and two files, by the number of a new process; the number of one by how that ended.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from functools import cache
from threading import Lock


class Forking:
    """The process that forks the others."""

    def __init__(self, path):
        self.door, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, __file__, str(path)], stdin=theirs)
        theirs.close()
        self.turn = Lock()

    def ask(self, what, files=()):
        with self.turn:
            socket.send_fds(self.door, [json.dumps(what).encode()], files)
            return json.loads(self.door.recv(1024))

    def end(self):
        self.door.close()
        self.process.wait()


@cache
def forking(path):
    """Return the process that forks those of a file: one, until this process ends."""
    one = Forking(path)
    atexit.register(one.end)
    return one


class Process:
    """A process that does the work of a file."""

    def __init__(self, path, *arguments):
        self.forking = forking(path)
        stdin, to_it = os.pipe()
        from_it, stdout = os.pipe()
        self.stdin, self.stdout = os.fdopen(to_it, "w"), os.fdopen(from_it)
        self.pid = self.forking.ask(arguments, (stdin, stdout))
        self.returncode = None
        os.close(stdin)
        os.close(stdout)

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)

    def wait(self):
        """Wait for its end, until which its number is nobody else's; return its exit code."""
        if self.returncode is None:
            self.returncode = self.forking.ask(self.pid)
            self.stdin.close()
            self.stdout.close()
        return self.returncode


# -- in the processes


def fork(door, work):
    """Fork processes until nobody asks any more."""
    while True:
        asked, files, _, _ = socket.recv_fds(door, 1 << 16, 2)
        if not asked:
            return
        told = json.loads(asked)
        if files:
            answer = os.fork()
            if answer == 0:
                for number, file in enumerate(files):
                    os.dup2(file, number)
                    os.close(file)
                door.close()
                begin(work, told)
            for file in files:
                os.close(file)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(told, 0)[1])
        door.send(json.dumps(answer).encode())


def begin(work, arguments):
    """Work, and end."""
    code = 1
    try:
        work(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    fork(socket.socket(fileno=os.dup(0)), runpy.run_path(sys.argv[1])["work"])
