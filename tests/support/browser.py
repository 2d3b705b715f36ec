"""A headless Chromium for tests, controlled through the W3C's WebDriver protocol."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    "--disable-component-update",
)
# The key under which the protocol returns the identifier of an element.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing():
    """Return the programs that are not installed."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Browser:
    """A browser window."""

    def __init__(self, driver_address, profile):
        self._address = driver_address
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._send(
            "POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}
        )
        self._address += f"/session/{session['sessionId']}"

    def _send(self, method, path, body=None):
        request = urllib.request.Request(
            self._address + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, address):
        self._send("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        """Run the body of a JavaScript function and return its result."""
        return self._send(
            "POST", "/execute/sync", {"script": script, "args": list(arguments)}
        )

    def text(self, selector):
        """Return the visible text of an element."""
        return self.run(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        )

    def until(self, script, *arguments, seconds=30):
        """Wait until the body of a function returns something true, and return that."""
        end = time.monotonic() + seconds
        while not (result := self.run(script, *arguments)):
            assert time.monotonic() < end, (script, self.text("body"))
            time.sleep(0.05)
        return result

    def type(self, selector, text):
        """Type text into an element, or a path into a file input."""
        using = {"using": "css selector", "value": selector}
        element = self._send("POST", "/element", using)[ELEMENT]
        self._send("POST", f"/element/{element}/value", {"text": text})

    def press(self, *keys):
        """Press keys one after the other on the focused element."""
        actions = [
            {"type": kind, "value": key}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        self._send(
            "POST",
            "/actions",
            {"actions": [{"type": "key", "id": "keys", "actions": actions}]},
        )

    def complaints(self):
        """Return the messages in the browser's console since the last call."""
        return [entry["message"] for entry in self._send("POST", "/se/log", LOG)]

    def command(self, name, **parameters):
        """Send a command of the Chrome DevTools protocol."""
        return self._send(
            "POST", "/goog/cdp/execute", {"cmd": name, "params": parameters}
        )

    def look(self, width, scheme):
        """Set the width of the window and the color scheme, `light` or `dark`."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def screenshot(self):
        """Return a PNG file of the whole page."""
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])

    @contextlib.contextmanager
    def fast_timers(self, factor):
        """Let the timers of pages that are opened run faster by a factor."""
        script = self.command(
            "Page.addScriptToEvaluateOnNewDocument",
            source="const wait = window.setTimeout; window.setTimeout = "
            f"(callback, time) => wait(callback, time / {factor});",
        )
        yield
        self.command("Page.removeScriptToEvaluateOnNewDocument", **script)

    def close(self):
        self._send("DELETE", "")


LOG = {"type": "browser"}
_STARTED = re.compile(r"started successfully on port (\d+)")


@contextlib.contextmanager
def browser(profile):
    """Yield a window of a new browser; close both at the end."""
    for _ in range(5):  # a port that is free for IPv6 may be in use for IPv4
        driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True
        )
        with driver, contextlib.ExitStack() as ends:
            ends.callback(driver.terminate)
            lines = (_STARTED.search(line) for line in driver.stdout)
            started = next(filter(None, lines), None)
            if started is None:
                continue
            window = Browser(f"http://127.0.0.1:{started[1]}", profile)
            ends.callback(window.close)
            yield window
            return
    raise RuntimeError("chromedriver cannot be started")


# The contrast ratio of each element that contains text, by the formula of WCAG 2.
CONTRASTS = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const [r, g, b] = color.map((value) => value / 255).map((value) =>
    value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = parse(getComputedStyle(node).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
return [...document.body.querySelectorAll('*')].filter((node) =>
  node.checkVisibility() && !['SCRIPT', 'OPTION', 'INPUT'].includes(node.tagName)
  && [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim())
).map((node) => {
  const [high, low] = [light(parse(getComputedStyle(node).color)), light(behind(node))]
    .sort((one, other) => other - one);
  return (high + 0.05) / (low + 0.05);
});
"""
