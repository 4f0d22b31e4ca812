#!/usr/bin/env python3
"""Prometheus itself, on a running demo: every target is up, every rule evaluates, no page fires, every panel has data.

Place: run by .ci/run where prometheus is installed (Debian: apt-get install --no-install-recommends prometheus); needs the
standard library alone, and matplotlib for --picture. Starts `meit demo` with heartbeat and review page, signs one draft and
rejects another as a browser would, scrapes all of it and the pipeline's metrics file with deploy/prometheus, and ends both.

    cargo build --release && tests/live/prometheus.py [--minutes 2] [--picture docs/img/overview.png]

Exit code 0 when everything holds; otherwise what does not is named.
"""

import argparse
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_MAX_S = 120
# nothing of the kind happens in a healthy demo, so these panels stay empty
EMPTY = {
    "overview": {"Reasons of rejection", "Lost before a window", "Requests turned away"},
    "node": set(),
    "pipeline": set(),
}


class Process:
    """A program with its lines of standard error."""

    def __init__(self, arguments, **more):
        self.name = Path(arguments[0]).name
        self.lines = []
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def find(self, pattern):
        end = time.time() + START_MAX_S
        while time.time() < end and self.process.poll() is None:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found.group(1)
            time.sleep(0.1)
        sys.exit(f"{self.name} says nothing like {pattern!r}:\n" + "\n".join(self.lines[-20:]))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


def step(text):
    print(f"  {text}", flush=True)


def page_request(address, method, path, cookie, form=None):
    connection = http.client.HTTPConnection(address, timeout=10)
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
    connection.request(method, path, urllib.parse.urlencode(form) if form else None, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.getheader("Set-Cookie")


def sign(address):
    """Signs the first waiting draft with a text and rejects the next, as a browser does."""
    _, _, cookie = page_request(address, "GET", "/", "")
    cookie = cookie.split(";")[0]
    verdicts = [("sign", "accepted"), ("reject", "rejected")]
    end = time.time() + START_MAX_S
    while verdicts and time.time() < end:
        _, page, _ = page_request(address, "GET", "/rows", cookie)
        for path in re.findall(r'href="(/drafts/[0-9a-f]+)"', page):
            _, draft, _ = page_request(address, "GET", path, cookie)
            text = re.search(r"<textarea[^>]*>([^<]+)</textarea>", draft)
            csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', draft)
            if not text or not csrf or 'id="ecg"' not in draft:
                continue
            form = {"csrf": csrf.group(1), "version": "1", "action": verdicts[0][0], "text": text.group(1),
                    "reason": "checked by tests/live"}
            status, _, _ = page_request(address, "POST", path, cookie, form)
            assert status == 303, f"{verdicts[0][0]} answers {status}"
            verdicts.pop(0)
            break
        time.sleep(0.5)
    assert not verdicts, f"no draft could be {verdicts[0][1]}"


def ask(prometheus, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}?{query}", timeout=20) as answer:
        return json.load(answer)["data"]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def serve_file(path):
    """Answers every request with a file, as node_exporter's textfile collector would."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = path.read_bytes() if path.exists() else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


def configuration(directory, demo, batch):
    """deploy/prometheus as it is, but for the targets and for intervals that fit a test."""
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    for old, new in [("scrape_interval: 15s", "scrape_interval: 2s"), ("scrape_timeout: 5s", "scrape_timeout: 2s"),
                     ("evaluation_interval: 15s", "evaluation_interval: 2s"), ("127.0.0.1:9100", batch)]:
        assert text.count(old) == 1, f"prometheus.yml no longer says {old!r}"
        text = text.replace(old, new)
    (directory / "prometheus.yml").write_text(text)
    for name in ("rules.yml", "alerts.yml"):
        (directory / name).write_text((ROOT / "deploy/prometheus" / name).read_text())
    (directory / "targets.yml").write_text(f'- {{targets: ["{demo}"], labels: {{process: demo}}}}\n')


def check(prometheus):
    targets = ask(prometheus, "targets")["activeTargets"]
    down = [f"{t['labels']['instance']}: {t['lastError']}" for t in targets if t["health"] != "up"]
    assert len(targets) == 2 and not down, f"targets: {down or targets}"
    slowest = max(target["lastScrapeDuration"] for target in targets)
    series = int(ask(prometheus, "query", query="max(scrape_samples_scraped)")["result"][0]["value"][1])
    assert slowest < 1 and series < 5000, f"a scrape takes {slowest:.3f} s and has {series} samples"
    step(f"2 targets up, the slowest scrape took {1000 * slowest:.0f} ms, the largest had {series} samples")
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    sick = [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    assert len(rules) > 30 and not sick, f"of {len(rules)} rules these do not evaluate: {sick}"
    firing = ask(prometheus, "query", query='ALERTS{alertstate="firing", severity="page"}')["result"]
    assert not firing, f"pages in a healthy demo: {[alert['metric'] for alert in firing]}"
    step(f"all {len(rules)} rules evaluate, none of severity page fires")


def panels(prometheus, minutes):
    for name, empty in EMPTY.items():
        command = [sys.executable, ROOT / "dashboards/plot.py", "--prometheus", prometheus, "--check", "--minutes",
                   str(minutes), "--dashboard", ROOT / f"dashboards/{name}.json", "--empty", ",".join(empty)]
        done = subprocess.run(command, capture_output=True, text=True)
        print("  " + (done.stdout + done.stderr).strip(), flush=True)
        assert done.returncode == 0, f"dashboard {name}: see above"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", default=ROOT / "target/release", type=Path)
    parser.add_argument("--minutes", default=1.5, type=float, help="how long the demo is watched")
    parser.add_argument("--beds", default=4, type=int)
    parser.add_argument("--picture", type=Path, help="draws the overview into this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        metrics = directory / "meit.prom"
        subprocess.run([arguments.binaries / "meit-pipeline", "--metrics-file", metrics, "evaluate", "--bundle",
                        ROOT / "model/bundle", "--dataset", f"ptbxl:{ROOT}/tests/data/ptbxl", "--folds", "9", "--json",
                        directory / "scores.json"], check=True, capture_output=True)
        demo = Process([arguments.binaries / "meit", "demo", "--review", "--heartbeat", "--json", "--beds",
                        str(arguments.beds), "--speed", "1", "--minutes", str(arguments.minutes + 2)],
                       cwd=ROOT, env=dict(os.environ, MEIT__REVIEW__ADDRESS="127.0.0.1:0"))
        address = demo.find(r"metrics http://([^/\s]+)")
        page = demo.find(r"review page http://([^/\s]+)")
        configuration(directory, address, serve_file(metrics))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        prometheus = Process(["prometheus", f"--config.file={directory}/prometheus.yml",
                              f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"])
        try:
            prometheus.find("(Server is ready to receive web requests)")
            step(f"prometheus at {url} scrapes {address}")
            began = time.time()
            sign(page)
            step("a draft was signed and another rejected")
            time.sleep(max(0.0, began + 60 * arguments.minutes - time.time()))
            check(url)
            panels(url, arguments.minutes)
            if arguments.picture:
                subprocess.run([sys.executable, ROOT / "dashboards/plot.py", "--prometheus", url, "--minutes",
                                str(arguments.minutes), "--out", arguments.picture], check=True)
        except AssertionError as error:
            sys.exit(f"{error}\n" + "\n".join(prometheus.lines[-5:]))
        finally:
            prometheus.stop()
            demo.stop()
    print("ok")


if __name__ == "__main__":
    main()
