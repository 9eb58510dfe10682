"""A headless Chromium, spoken to over a pipe by the DevTools protocol: real pages, without another package."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Page:
    """One page of a browser."""

    def __init__(self, pipe, session):
        self._pipe = pipe
        self._session = session

    def do(self, method, **params):
        answer = self._pipe.ask(method, params, self._session)
        assert "error" not in answer, answer
        return answer["result"]

    @property
    def said(self):
        """What the page wrote to its console, what went wrong in it, and what it asked the network for."""
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        found = [one["params"] for one in self._pipe.told if one.get("method") in names]
        asked = [
            one["params"]["request"]["url"]
            for one in self._pipe.told
            if one.get("method") == "Network.requestWillBeSent"
        ]
        return found + [url for url in asked if not url.startswith(("file:", "about:"))]

    def open(self, path, *, width=1200, height=900, dark=False, phone=False):
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.do("Emulation.setEmulatedMedia", features=scheme)
        for url in ("about:blank", Path(path).resolve().as_uri()):
            # Of this navigation: what was open before tells that it was loaded at any time.
            loader = self.do("Page.navigate", url=url)["loaderId"]
            self._pipe.wait("Page.lifecycleEvent", name="load", loaderId=loader)
        # What is drawn only where it can be seen has no text before the first frame.
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def value(self, expression):
        """Return what an expression comes to in the page."""
        said = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, expression):
        """Wait until an expression is true; the page is asked at each of its frames."""
        ask = f"const ask = () => ({expression}) ? done(true) : requestAnimationFrame(ask)"
        loop = f"new Promise(done => {{ {ask}; ask() }})"
        assert self.value(loop)

    def click(self, selector, *, at=(0.5, 0.5)):
        """Click where an element is, as a person does."""
        x, y = self.value(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            f" return [box.left + box.width * {at[0]}, box.top + box.height * {at[1]}] }})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key)

    def text(self, selector):
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def picture(self, path, *, whole=False):
        taken = self.do("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser():
    """Start a browser and yield an open page; skip the test where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    (read, theirs_out), (theirs_in, write) = os.pipe(), os.pipe()

    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        # A browser looks for its pipe at 3 and 4; what it is started by puts it there.
        ours = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (theirs_in, theirs_out)]
        code = f"import os, sys; os.dup2({ours[0]}, 3); os.dup2({ours[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        placed = [sys.executable, "-c", code]
        command = [*placed, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=ours)
        for one in (theirs_in, theirs_out, *ours):
            os.close(one)
        try:
            yield _page(_Pipe(read, write))
        finally:
            process.kill()
            process.wait()
            os.close(read)
            os.close(write)


class _Pipe:
    """Asks the browser, and takes down what it tells unasked."""

    def __init__(self, read, write):
        self._read = read
        self._write = write
        self._buffer = bytearray()
        self._number = 0
        self.told = []

    def _next(self):
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 16)
            assert data, "the browser has gone"
            self._buffer.extend(data)
        message, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer[:] = rest
        return json.loads(message)

    def ask(self, method, params, session=None):
        self._number += 1
        message = {
            "id": self._number,
            "method": method,
            "params": params,
            **({"sessionId": session} if session else {}),
        }
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while (told := self._next()).get("id") != self._number:
            self.told.append(told)
        return told

    def wait(self, method, **params):
        """Wait for an event of that name with these parameters."""

        def is_it(one):
            return one.get("method") == method and params.items() <= one["params"].items()

        while not any(map(is_it, self.told)):
            self.told.append(self._next())
        self.told = [one for one in self.told if one.get("method") != method]


def _page(pipe):
    target = pipe.ask("Target.createTarget", {"url": "about:blank"})["result"]["targetId"]
    session = pipe.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["result"]["sessionId"]
    page = Page(pipe, session)
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.do(f"{domain}.enable")
    page.do("Page.setLifecycleEventsEnabled", enabled=True)
    return page
