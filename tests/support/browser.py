"""A headless Chromium for tests, driven by the W3C's WebDriver protocol."""

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
# The protocol's name of the key by which it hands out elements.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing():
    """The programs that this machine lacks."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Browser:
    """One window."""

    def __init__(self, driver_address, profile):
        self._address = driver_address
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._ask(
            "POST", "/session", {"capabilities": {"alwaysMatch": wanted}}
        )
        self._address += f"/session/{session['sessionId']}"

    def _ask(self, method, path, body=None):
        request = urllib.request.Request(
            self._address + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, address):
        self._ask("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        """Return what a function body of JavaScript returns."""
        return self._ask(
            "POST", "/execute/sync", {"script": script, "args": list(arguments)}
        )

    def text(self, selector):
        """Return the text that is seen."""
        return self.run(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        )

    def until(self, script, *arguments, seconds=30):
        """Wait until a function body returns something true, and return it."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, (script, self.text("body"))
            time.sleep(0.05)
        return found

    def type(self, selector, text):
        """Type into an element; a path, into an input of files."""
        using = {"using": "css selector", "value": selector}
        element = self._ask("POST", "/element", using)[ELEMENT]
        self._ask("POST", f"/element/{element}/value", {"text": text})

    def press(self, *keys):
        """Press keys one after the other, wherever the focus is."""
        actions = [
            {"type": kind, "value": key}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        self._ask(
            "POST",
            "/actions",
            {"actions": [{"type": "key", "id": "keys", "actions": actions}]},
        )

    def complaints(self):
        """Return what the browser wrote into its console since the last call."""
        return [one["message"] for one in self._ask("POST", "/se/log", LOG)]

    def command(self, name, **parameters):
        """Send a command of Chromium's own protocol."""
        return self._ask(
            "POST", "/goog/cdp/execute", {"cmd": name, "params": parameters}
        )

    def look(self, width, scheme):
        """Show the page at a width, light or dark."""
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
        found = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def close(self):
        self._ask("DELETE", "")


LOG = {"type": "browser"}
_STARTED = re.compile(r"started successfully on port (\d+)")


@contextlib.contextmanager
def browser(profile):
    """Start a driver and a window; end both."""
    for _ in range(5):  # a port that is free for IPv6 may be taken for IPv4
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
    raise RuntimeError("chromedriver does not start")


# Ratio of contrast of each element that holds text, by the formula of WCAG 2.
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
