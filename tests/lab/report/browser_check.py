"""Looks at a page in headless Chromium, over the DevTools protocol: sizes, colours, errors, requests, pictures.

``python -m tests.lab.report.browser_check PAGE [PICTURES]`` prints what it finds, and saves the documentation's
pictures in the folder PICTURES.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
HEIGHTS = {390: 1900, 1280: 2000}
"""Of the documentation's pictures, by width."""

# Colours go through a canvas, which understands every notation, color-mix() too. A text's background is what its
# ancestors paint, the nearest on top; SVG text is painted with `fill`.
CONTRAST = r"""
(() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const rgba = text => {
    if (!known.has(text)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = text;
      context.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
      known.set(text, [r, g, b, a / 255]);
    }
    return known.get(text);
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const light = colour => {
    const [r, g, b] = colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || ["STYLE", "SCRIPT"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    if (style.visibility === "hidden" || style.clipPath === "inset(50%)" || !element.getClientRects().length) continue;
    let opacity = 1;
    for (let e = element; e; e = e.parentElement) opacity *= +getComputedStyle(e).opacity;
    const below = background(element);
    const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
    const shown = over([...ink.slice(0, 3), ink[3] * opacity], below);
    const [a, b] = [light(shown), light(below)].sort((x, y) => y - x);
    const box = element.getBoundingClientRect();
    const size = element instanceof SVGElement && element.ownerSVGElement
      ? parseFloat(style.fontSize) * element.ownerSVGElement.getScreenCTM().a : parseFloat(style.fontSize);
    count += 1;
    found.push({text: node.data.trim().slice(0, 40), ratio: (a + 0.05) / (b + 0.05), size});
  }
  return {count, low: found.filter(one => one.ratio < 4.5), ratio: Math.min(...found.map(one => one.ratio)),
          size: Math.min(...found.map(one => one.size))};
})()
"""
# A phone zooms out when a page is too wide, and innerWidth grows with it: the width asked for is what counts.
OVERFLOW = """
(room => {
  const wide = document.scrollingElement.scrollWidth;
  const past = [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest(".scroller, pre, .unseen") || e instanceof SVGElement) return false;
    return e.getBoundingClientRect().right > room + 0.5;
  });
  return {wide, room, past: past.slice(0, 5).map(e => e.tagName + "." + e.className)};
})
"""
CLIPPED = """
[...document.querySelectorAll("svg.chart")].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const one = text.getBoundingClientRect();
    return one.left < Math.max(0, box.left - 2) || one.right > box.right + 2 || one.top < box.top - 2
      || one.bottom > box.bottom + 2;
  }).map(text => text.textContent);
})
"""

# The room on a printed page, in CSS pixels: A4 less the margins; wide tables are printed sideways.
UPRIGHT, SIDEWAYS = 688, 1054
PRINTED = """
(([wide, room]) => [...document.querySelectorAll("main table, main pre, main svg.chart")].filter(
  e => e.getClientRects().length && !!e.closest(".wide") === wide
    && (e.getBoundingClientRect().right > room + 1 || e.scrollWidth > e.clientWidth + 1 && e.tagName === "PRE")
).map(e => e.tagName + " in " + e.closest("section[id]").id))
"""


@dataclass
class Findings:
    """What was found of a page at one width and in one colour scheme.

    Attributes:
        width: In CSS pixels.
        scheme: ``light`` or ``dark``.
        overflow: Page's width and room, and what reaches past the edge.
        contrast: Least contrast, smallest text, and the texts below 4.5.
        clipped: Texts that reach out of their chart.
        errors: Console messages, exceptions, log entries.
        requests: Addresses that were asked for, besides the page.
    """

    width: int
    scheme: str
    overflow: dict[str, Any] = field(default_factory=dict)
    contrast: dict[str, Any] = field(default_factory=dict)
    clipped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def missing() -> str | None:
    """Why pages cannot be looked at here; None if they can."""
    if not any(map(shutil.which, NAMES)):
        return "chromium is not installed (Debian: apt-get install chromium)"
    try:
        import websockets.sync.client  # noqa: F401
    except ImportError:
        return "websockets is not installed (pip install websockets)"
    return None


class Browser:
    """A tab of a headless Chromium without scripts from the page.

    Attributes:
        events: Events that have arrived.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=True)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": arguments}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, page: Path, width: int, scheme: str, height: int = 900) -> None:
        """Load a page at a width and in a colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + 60
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            if time.monotonic() > end:
                raise TimeoutError(f"{page} did not load")
            self.call("Runtime.evaluate", expression="1")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def print_to(self, path: Path) -> None:
        """Print the page as PDF."""
        data = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def clipped_in_print(self, page: Path) -> list[str]:
        """What would not fit on a printed page."""
        found = []
        for wide, room in ((False, UPRIGHT), (True, SIDEWAYS)):
            self.open(page, room, "dark")
            self.call("Emulation.setEmulatedMedia", media="print", features=[])
            found += self.evaluate(f"{PRINTED}([{json.dumps(wide)}, {room}])")
            self.call("Emulation.setEmulatedMedia", media="", features=[])
        return found

    def findings(self, page: Path, width: int, scheme: str) -> Findings:
        """Load a page and measure it, with everything that can be opened open."""
        self.open(page, width, scheme)
        found = Findings(width, scheme)
        self.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        found.overflow, found.contrast = self.evaluate(f"{OVERFLOW}({width})"), self.evaluate(CONTRAST)
        found.clipped = self.evaluate(CLIPPED)
        for event in self.events:
            content = event["params"]
            if event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.errors.append(json.dumps(content)[:300])
            elif event["method"] == "Network.requestWillBeSent":
                found.requests.append(content["request"]["url"])
        own = page.resolve().as_uri()
        found.requests = [url for url in found.requests if url != own and not url.startswith("data:")]
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, and end it afterwards."""
    from websockets.sync.client import connect

    program = next(path for path in map(shutil.which, NAMES) if path)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port = Path(folder) / "DevToolsActivePort"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += ["--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-port=0"]
        process = subprocess.Popen(
            [program, *options, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + 30
            while not port.is_file() or port.read_text().count("\n") < 1:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{program} did not start (exit code {process.poll()})")
                time.sleep(0.05)
            number, path = port.read_text().splitlines()[:2]
            with connect(f"ws://127.0.0.1:{number}{path}", max_size=2**28) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> None:
    """Print what is found, save pictures."""
    page, pictures = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    with browser() as tab:
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            found = tab.findings(page, width, scheme)
            print(json.dumps(found.__dict__, ensure_ascii=False))
            if pictures is not None:
                pictures.mkdir(parents=True, exist_ok=True)
                tab.open(page, width, scheme, HEIGHTS[width])
                tab.picture(pictures / f"report-{width}-{scheme}.png")
        print(json.dumps({"clipped in print": tab.clipped_in_print(page)}))
        if pictures is not None and len(sys.argv) > 3:
            for width, scheme in itertools.product(WIDTHS, SCHEMES):
                tab.open(page, width, scheme)
                tab.picture(pictures / f"whole-{width}-{scheme}.png", whole=True)
            tab.open(page, 1280, "light")
            tab.print_to(pictures / "page.pdf")


if __name__ == "__main__":
    main()
