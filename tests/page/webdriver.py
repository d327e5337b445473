"""A headless Chromium, driven over WebDriver's JSON protocol with nothing but the standard library.

In: calls of a test. Out: what the page shows, its errors, pictures of it. Every request has a bound; a browser that
fails to answer is an error that names the request. Needs `chromium` and `chromedriver` on the PATH.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which WebDriver hands out elements

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-color-profile=srgb", "--window-size=1280,800",
    # A headless browser has no mouse and says so; this one stands for a person who has.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
]


class WebDriverError(Exception):
    """What the driver says went wrong; `code` is WebDriver's own word for it."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message.splitlines()[0] if message else ''}")
        self.code = code


class Lines:
    """Reads a pipe to its end in a thread of its own, so that whoever writes it never waits. Keeps the last 400 lines."""

    KEPT_MAX = 400

    def __init__(self, pipe):
        self.lines = []
        self.changed = threading.Condition()
        self.ended = False
        threading.Thread(target=self._read, args=(pipe,), daemon=True).start()

    def _read(self, pipe):
        # A progress line ends in a carriage return; universal newlines make lines of both.
        for line in pipe:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                del self.lines[:-self.KEPT_MAX]
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait_for(self, pattern, seconds):
        """The first match among the lines, or None when there was none in time or the pipe ended without."""
        found = None

        def look():
            nonlocal found
            found = next((m for m in (re.search(pattern, line) for line in self.lines) if m), None)
            return found or self.ended

        with self.changed:
            self.changed.wait_for(look, timeout=seconds)
        return found

    def text(self):
        with self.changed:
            return "\n".join(self.lines)


def start(command, **more):
    """Starts a process in a session of its own: Ctrl-C at the test's terminal reaches the test alone."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, text=True, encoding="utf-8", errors="replace", start_new_session=True, **more)


def end(process, seconds=10):
    """Ends a process of `start` and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
    process.poll()


class Browser:
    """One browser with one page."""

    def __init__(self, seconds=60):
        self.profile = tempfile.mkdtemp(prefix="tidemill-page-profile-")
        self.driver = None
        self.session = None
        try:
            self.driver = start(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.said = Lines(self.driver.stdout)
            port = self.said.wait_for(r"started successfully on port (\d+)", seconds)
            if port is None:
                raise WebDriverError("no driver", f"chromedriver did not start: {self.said.text()}")
            self.base = f"http://127.0.0.1:{port[1]}"
            # A proxy in the environment is not for a driver on this machine.
            self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            options = {"args": [*FLAGS, f"--user-data-dir={self.profile}"]}
            binary = shutil.which("chromium")
            if binary:
                options["binary"] = binary
            capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}, seconds)
            self.session = made["sessionId"]
            self.version = made["capabilities"]["browserVersion"]
            self.ask("POST", "/timeouts", {"script": 10_000, "pageLoad": 30_000, "implicit": 0})
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.session:
            try:
                self.ask("DELETE", "", seconds=15)
            except (WebDriverError, OSError):
                pass
            self.session = None
        if self.driver:
            end(self.driver)
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method, path, body=None, seconds=40):
        return self._ask(method, f"/session/{self.session}{path}", body, seconds)

    def _ask(self, method, path, body, seconds):
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method, headers={"Content-Type": "application/json"})
        try:
            with self.opener.open(request, timeout=seconds) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as e:
            value = json.load(e)["value"]
            raise WebDriverError(value["error"], value["message"]) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as e:
            raise WebDriverError("no answer", f"{method} {path}: {e}") from None

    def open(self, address):
        self.ask("POST", "/url", {"url": address})

    def title(self):
        return self.ask("GET", "/title")

    def run(self, script, *args):
        """Runs JavaScript in the page; `return` gives the value back."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, css):
        """The first element, or an error."""
        return self.ask("POST", "/element", {"using": "css selector", "value": css})

    def hover(self, element):
        """Moves the mouse to the middle of an element."""
        move = {"type": "pointerMove", "duration": 120, "x": 0, "y": 0, "origin": element}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self.ask("POST", "/actions", {"actions": [mouse]})

    def click(self, element):
        """Moves the mouse there and clicks, as a person does; an element that is covered refuses."""
        self.ask("POST", f"/element/{element[ELEMENT]}/click")

    def log(self):
        """What the browser logged since the last call: a list of {level, source, message}."""
        return self.ask("POST", "/se/log", {"type": "browser"})

    def size(self, width, height):
        """Makes the page's own area exactly this large; a window's frame and least width do not count."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def devtools(self, command, params):
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self, path):
        png = base64.b64decode(self.ask("GET", "/screenshot"))
        with open(path, "wb") as file:
            file.write(png)
        return png


def eventually(what, probe, seconds=20.0, every=0.1):
    """The first value of `probe` that is true; an error that tells the last one when there is none in time."""
    until = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what} (last seen: {value!r})")
        time.sleep(every)
