"""A headless Chromium, driven by WebDriver commands over HTTP, to look at pages as a reader does."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the environment names
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Browser:
    """A page of Chromium."""

    def __init__(self, session: str):
        self.session = session

    def post(self, command, **values):
        """Send a WebDriver command. Returns its value."""
        return self.send("POST", f"/{command}", json.dumps(values).encode())

    def send(self, method, path="", data=None):
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"}, method=method)
        with DIRECT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command, **values):
        return self.post("goog/cdp/execute", cmd=command, params=values)

    def open(self, path: Path, width: int, scheme: str = "light", height: int = 800):
        """Open a file in a window of this width, with the light or the dark colour scheme."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.devtools("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.post("url", url=path.resolve().as_uri())

    def ask(self, script, *arguments):
        """The value of a line of JavaScript, which the page's own policy does not stop."""
        return self.post("execute/sync", script=f"return {script}", args=list(arguments))

    def messages(self):
        """What the console has had since the last call: errors, warnings, and breaches of the page's policy."""
        return [line["message"] for line in self.post("se/log", type="browser")]

    def screenshot(self, path: Path):
        """A picture of the whole page."""
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def print(self, path: Path):
        """The page as a PDF, as a printer would get it."""
        path.write_bytes(base64.b64decode(self.post("print", page={"width": 21.0, "height": 29.7})))


@contextlib.contextmanager
def open_browser():
    """A `Browser`. Both its processes end with the body."""
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            port = next(found.group(1) for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            root = Browser(f"http://127.0.0.1:{port}")
            options = {"binary": CHROMIUM, "args": list(OPTIONS)}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            found = root.post("session", capabilities={"alwaysMatch": wanted})
            browser = Browser(f"{root.session}/session/{found['sessionId']}")
            try:
                yield browser
            finally:
                browser.send("DELETE")
        finally:
            driver.terminate()
