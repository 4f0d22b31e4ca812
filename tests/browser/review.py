"""The review page in a real browser: read a draft, measure, edit, sign, reject, and find the signatures on the topic.

Place: run by hand and by CI where a browser is; `cargo test` needs none.
Starts `meit demo --review` on its embedded broker, drives it with Chromium by keyboard, and ends it.

    pip install -r tests/browser/requirements.txt
    cargo build --release && python3 tests/browser/review.py [--screenshots docs/img]

Exit code 0 when every step holds; otherwise the step that failed is named.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from confluent_kafka import Consumer
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SIGNED = "ecg.signed-reports.v1"
START_MAX_S = 120
EDIT = "Edited in the browser test."


class Demo:
    """A running demo: its page's address, its broker, and its last lines."""

    def __init__(self, binary):
        arguments = [binary, "demo", "--review", "--beds", "4", "--minutes", "0.5", "--speed", "20", "--json"]
        environment = dict(os.environ, MEIT__REVIEW__ADDRESS="127.0.0.1:0")
        self.process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()
        self.broker = self._find(r"embedded broker (\S+)")
        self.page = self._find(r"review page (http://\S+)").rstrip("/")
        self.audit = self._find(r"audit log (\S+)")

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def _find(self, pattern):
        end = time.time() + START_MAX_S
        while time.time() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"no {pattern!r} in the demo's output:\n" + "\n".join(self.lines[-20:]))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=60)
        assert code == 0, f"demo ended with {code}:\n" + "\n".join(self.lines[-20:])


def step(text):
    print(f"  {text}", flush=True)


def signed_events(broker, count):
    """The first `count` records of the topic."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "browser-test", "auto.offset.reset": "earliest"})
    consumer.subscribe([SIGNED])
    events, end = [], time.time() + 30
    while len(events) < count and time.time() < end:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            events.append((message.key().decode(), json.loads(message.value()), dict(message.headers() or [])))
    consumer.close()
    assert len(events) == count, f"{len(events)} of {count} signatures are on {SIGNED}"
    return events


def accessible(page, what):
    results = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
    violations = results.response["violations"]
    told = [f"{v['id']}: {v['help']}: {[n['html'][:120] for n in v['nodes']][:3]}" for v in violations]
    assert not violations, f"axe on {what}:\n" + "\n".join(told)
    step(f"axe finds nothing on {what} ({len(results.response['passes'])} rules pass)")


def milliseconds_and_millivolts(text):
    found = re.match(r"(\d+) ms · (-?[\d.]+) mV", text)
    assert found, f"caliper reads {text!r}"
    return int(found.group(1)), float(found.group(2))


def drawn(page):
    """Waits for the tracing; not by wait_for_function, whose eval the page's security policy forbids."""
    expect(page.locator("#ecg")).to_have_js_property("complete", True)
    assert page.locator("#ecg").evaluate("image => image.naturalWidth") > 0, "no tracing is drawn"


def measure(page):
    """Drag over 25 mm x 10 mm of paper, then move the end by keyboard."""
    box = page.locator("#caliper").bounding_box()
    per_mm = box["width"] / 275
    x, y = box["x"] + 100 * per_mm, box["y"] + 60 * per_mm
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 25 * per_mm, y - 10 * per_mm, steps=4)
    page.mouse.up()
    ms, mv = milliseconds_and_millivolts(page.locator("#caliper-read").inner_text())
    assert abs(ms - 1000) <= 15 and abs(mv - 1.0) <= 0.03, (ms, mv)
    step(f"the caliper over 25 mm x 10 mm reads {ms} ms and {mv} mV")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    assert milliseconds_and_millivolts(page.locator("#caliper-read").inner_text()) == (1000, 1.0)
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert milliseconds_and_millivolts(page.locator("#caliper-read").inner_text()) == (1040, 0.97)
    step("by keyboard the caliper moves in steps of 10 ms and 0.025 mV")


def switch_and_zoom(page):
    page.keyboard.press("r")
    expect(page.locator("#samples")).to_have_attribute("aria-pressed", "false")
    assert page.locator("#ecg").get_attribute("src").endswith("raw")
    drawn(page)
    page.keyboard.press("r")
    assert page.locator("#ecg").get_attribute("src").endswith("filtered")
    before = page.locator("#sheet").bounding_box()["width"]
    for _ in range(3):
        page.keyboard.press("+")
    assert page.locator("#sheet").bounding_box()["width"] > 1.5 * before
    page.keyboard.press("0")
    assert abs(page.locator("#sheet").bounding_box()["width"] - before) < 2
    step("raw and filtered, zoom in and to the width, by keyboard")


def first_draft(page, address):
    """From the list into the first draft with a text, by keyboard."""
    page.goto(address)
    expect(page.locator("#waiting a.open").first).to_be_visible(timeout=90_000)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/drafts/"))
    drawn(page)
    while not page.locator("#text").input_value():
        with page.expect_navigation():
            page.keyboard.press("n")
    return page.url.rsplit("/", 1)[1]


def waits(page, address, draft_id):
    page.goto(address)
    return page.locator(f'#waiting a[href="/drafts/{draft_id}"]').count() > 0


def edit_and_sign(page, address):
    draft_id = first_draft(page, address)
    step(f"draft {draft_id[:8]} reads {page.locator('#text').input_value()[:60]!r}")
    accessible(page, "the page of a draft")
    measure(page)
    switch_and_zoom(page)
    drafted = page.locator("#text").input_value()
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(f" {EDIT}")
    assert EDIT.split()[0] in page.locator("#diff ins").first.inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    expect(page.locator("#confirm")).to_be_visible()
    assert EDIT in page.locator("#confirm-text").inner_text()
    accessible(page, "the question before a signature")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"done=edited"))
    assert not waits(page, address, draft_id), "a signed draft still waits"
    step("edited and signed by keyboard; it left the list")
    return draft_id, drafted


def reject(page, address):
    draft_id = first_draft(page, address)
    page.keyboard.press("x")
    page.keyboard.type("artefact in the browser test")
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"done=rejected"))
    assert not waits(page, address, draft_id)
    step("rejected with a reason by keyboard")
    return draft_id


def listen_elsewhere(context, page, address):
    """A second window sees a signature without a reload."""
    other = context.new_page()
    other.goto(address)
    expect(other.locator("#waiting a.open").first).to_be_visible()
    draft_id = first_draft(page, address)
    page.keyboard.press("s")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"done=accepted"))
    expect(other.locator(f'#waiting a[href="/drafts/{draft_id}"]')).to_have_count(0, timeout=5000)
    other.close()
    step("another window saw it leave by itself")
    return draft_id


def screenshots(browser, address, directory):
    directory.mkdir(parents=True, exist_ok=True)
    for name, size in [("review-1280", (1280, 900)), ("review-tablet", (820, 1180))]:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        first_draft(page, address)
        page.keyboard.press("c")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} scrolls sideways by {wide} px"
        page.screenshot(path=str(directory / f"{name}.png"))
        page.close()
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(address)
    page.screenshot(path=str(directory / "review-list.png"))
    page.close()
    step(f"pictures in {directory}")


def drive(demo, directory):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        problems = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(demo.page)
        expect(page.locator("#waiting a.open").first).to_be_visible(timeout=90_000)
        step("drafts appeared by themselves")
        accessible(page, "the list")
        signed = [edit_and_sign(page, demo.page), (reject(page, demo.page), None)]
        signed.append((listen_elsewhere(context, page, demo.page), None))
        if directory:
            screenshots(browser, demo.page, directory)
        assert not problems, "the browser's console says:\n" + "\n".join(problems)
        browser.close()
    return signed


def check_events(demo, signed):
    events = {event["draft_id"]: (key, event) for key, event, _ in signed_events(demo.broker, len(signed))}
    (edited, drafted), (rejected, _), (accepted, _) = signed
    key, event = events[edited]
    assert key == event["segment_id"]
    assert event["action"] == "edited" and event["text"].endswith(EDIT) and event["draft_text"] == drafted.strip()
    assert events[rejected][1]["action"] == "rejected" and "artefact" in events[rejected][1]["reason"]
    assert events[accepted][1]["action"] == "accepted" and not events[accepted][1]["training_consent"]
    step(f"all {len(events)} signatures are on {SIGNED}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meit", default=str(ROOT / "target/release/meit"), help="the built binary")
    parser.add_argument("--screenshots", type=Path, help="directory for pictures")
    arguments = parser.parse_args()
    demo = Demo(arguments.meit)
    print(f"review page at {demo.page}", flush=True)
    try:
        check_events(demo, drive(demo, arguments.screenshots))
    finally:
        demo.stop()
    checked = subprocess.run([Path(arguments.meit).with_name("meit-review"), "check-audit", demo.audit],
                             capture_output=True, text=True, check=True)
    assert "3 signatures" in checked.stdout, checked.stdout
    step(f"audit log: {checked.stdout.strip()}")
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
