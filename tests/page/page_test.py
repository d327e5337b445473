#!/usr/bin/env python3
"""The page as a person meets it: starts the demo, opens it in headless Chromium, clicks in the feed.

In: the built program (CARGO_TARGET_DIR/debug/tidemill, or --binary). Out: a line per check, pictures of the page, and
last `page: N passed, M failed`; the exit code is 1 when a check failed. Python's standard library only; needs
`chromium` and `chromedriver`. A failure is followed by what the page, the browser and the program said.
"""

import argparse
import contextlib
import os
import pathlib
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # a test leaves nothing in the checkout
from webdriver import Browser, Lines, WebDriverError, end, eventually, start

ROOT = pathlib.Path(__file__).resolve().parents[2]
WHOLE_TEST_MAX_S = 240  # beyond it something hangs
CLICKS = 8  # on one card: a person who likes what it shows
CARDS = 12
CLICK_MAX_MS = 50  # the product's promise; held by the middle click, as other programs may hold the machine for a moment


class HangsError(BaseException):
    """The whole test took too long; no check may swallow it."""


class Checks:
    """Counts checks, and goes on behind one that fails so that all are reported."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.on_failure = []

    @contextlib.contextmanager
    def check(self, name):
        began = time.monotonic()
        notes = []
        try:
            yield notes.append
        except (AssertionError, WebDriverError, OSError, LookupError, TypeError, ValueError) as e:
            self.failed += 1
            text = str(e) or repr(e)
            print(f"FAILED  {name}: {text if isinstance(e, (AssertionError, WebDriverError)) else repr(e)}", flush=True)
            if self.failed == 1:
                self.explain()
        else:
            self.passed += 1
            print(f"ok      {name}{': ' + '; '.join(notes) if notes else ''} ({time.monotonic() - began:.1f} s)", flush=True)

    def explain(self):
        """What was to be seen at the first failure; later ones mostly follow from it."""
        for title, tell in self.on_failure:
            try:
                text = tell()
            except (WebDriverError, OSError) as e:
                text = f"(cannot be had: {e})"
            print(f"--- {title} ---\n{text}\n---", flush=True)


class Demo:
    """The program under test."""

    def __init__(self, binary, data_dir, rate):
        # The world stands still, so that what moves the ranking is the clicks.
        command = [str(binary), "demo", "--rate", str(rate), "--drift-every", "1h", "--port", "0", "--data-dir", str(data_dir)]
        self.process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.out = Lines(self.process.stdout)
        self.said = Lines(self.process.stderr)

    def address(self, seconds=30):
        found = self.said.wait_for(r"page and API at (http://\S+)", seconds)
        assert found, f"the program did not say where its page is; it said: {self.said.text()!r}"
        return found[1]

    def interrupt(self, seconds=30):
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {seconds} s after SIGINT") from None


class Page:
    """What a reader of the page sees."""

    def __init__(self, browser):
        self.browser = browser

    def text(self, selector):
        return self.browser.run("return document.querySelector(arguments[0])?.innerText ?? null", selector)

    def number(self, selector):
        """The figure shown there, or None while there is none."""
        found = re.search(r"-?[\d,]+(\.\d+)?", self.text(selector) or "")
        return float(found[0].replace(",", "")) if found else None

    def painted(self, plot):
        """Points of a chart's canvas that are not empty."""
        return self.browser.run("""
            const canvas = document.querySelector(arguments[0] + " canvas");
            if (!canvas || !canvas.width || !canvas.height) return 0;
            const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let painted = 0;
            for (let i = 3; i < bytes.length; i += 4) painted += bytes[i] > 0;
            return painted;""", plot)

    def versions(self):
        """Rows of the versions table, newest first."""
        return self.browser.run("""
            return [...document.querySelectorAll("#versions tr:not(.none)")].map((row) => ({
                version: parseInt(row.cells[0].innerText, 10), live: row.querySelector(".mark")?.innerText ?? "",
                logloss: row.cells[2].innerText, state: row.cells[5].innerText}))""")

    def cards(self):
        """The feed from top to bottom: title, percent, what the card notes."""
        return self.browser.run("""
            return [...document.querySelectorAll("#items .card")].map((card) => ({
                title: card.querySelector(".title").innerText, percent: parseFloat(card.querySelector(".p").innerText),
                note: card.querySelector(".note").innerText}))""")

    def card(self, title):
        cards = self.cards()
        rank = next(i for i, c in enumerate(cards) if c["title"] == title)
        return rank, cards[rank]

    def click_card(self, title):
        """Clicks a card; one that glides to its new place at that moment is tried again, as a person would."""
        for_title = """return [...document.querySelectorAll("#items .card")]
            .find((card) => card.querySelector(".title").innerText === arguments[0])"""
        for attempt in range(5):
            try:
                card = self.browser.run(for_title, title)
                # A hand comes to rest before it clicks.
                self.browser.hover(card)
                time.sleep(0.25)
                return self.browser.click(card)
            except WebDriverError as e:
                if e.code not in ("element click intercepted", "stale element reference") or attempt == 4:
                    raise
                time.sleep(0.3)

    def counter(self, name):
        """A counter of `events set aside`."""
        text = self.browser.run("""
            return [...document.querySelectorAll("#counters dt")].find((e) => e.innerText === arguments[0]).nextSibling.innerText""", name)
        return int(text.replace(",", ""))

    def leave(self):
        """Takes the mouse out of the feed: it re-ranks only where no pointer is about to click."""
        self.browser.devtools("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 4, "y": 4})

    def alerts(self):
        return self.browser.run("return [...document.querySelectorAll('#alerts .alert')].map((a) => a.dataset.message)")


def see_figures(checks, page, title):
    with checks.check("the title is the product's name") as note:
        assert title == "tidemill", title
    with checks.check("the log loss is shown beside the best possible"):
        eventually("a log loss", lambda: page.number("#logloss"))
        loss, best = page.number("#logloss"), eventually("a best possible log loss", lambda: page.number("#best"))
        assert 0 < best < loss + 0.05 < 1.5, f"log loss {loss}, best possible {best}"
    with checks.check("the log loss moves") as note:
        first = page.text("#logloss")
        note(first + " -> " + eventually("another log loss", lambda: (t := page.text("#logloss")) != first and t))
    with checks.check("samples are counted and events flow") as note:
        first = page.text("#samples")
        eventually("more samples", lambda: page.text("#samples") != first)
        rate = eventually("events a second", lambda: page.number("#rate"))
        note(f"{rate:g} events/s, staleness {page.text('#staleness')}")
    with checks.check("the three charts over time are drawn"):
        for plot in ("#plot-loss", "#plot-rate", "#plot-staleness"):
            eventually(f"{plot} painted", lambda plot=plot: page.painted(plot) > 500)
    with checks.check("the calibration is drawn") as note:
        dots = eventually("a dot per decile", lambda: page.browser.run(
            "return document.querySelectorAll('#plot-calibration svg circle.dot').length"))
        note(f"{dots} deciles")
    with checks.check("the versions table fills, one of them live") as note:
        rows = eventually("three versions", lambda: len(page.versions()) >= 3 and page.versions())
        assert [r["version"] for r in rows] == sorted((r["version"] for r in rows), reverse=True), rows
        # The live mark is told by the server's next status and may be one status behind.
        eventually("one live version", lambda: [r["live"] for r in page.versions() if r["live"]] == ["live, growing"])
        assert all(len(r["state"]) == 8 for r in rows), rows
        note(f"newest {rows[0]['version']}")


def look_at_line(checks, page):
    steps = """return [...document.querySelectorAll("#line .step")].map((e) => ({
        step: e.dataset.step, name: e.querySelector(".name").innerText, in: e.querySelector(".in").innerText,
        left: e.getBoundingClientRect().left, right: e.getBoundingClientRect().right}))"""
    with checks.check("the picture of the line has the program's steps, from left to right, joined") as note:
        shown = eventually("the steps", lambda: page.browser.run(steps))
        assert [(s["step"], s["name"]) for s in shown] == [
            ("source", "impressions"), ("source", "clicks"), ("window", "impressions"), ("window", "clicks"), ("join", "label join"),
            ("features", "features"), ("learner", "FTRLClassifier"), ("publish", "ctr")], shown
        layers = [[s for s in shown if s["step"] == step] for step in dict.fromkeys(s["step"] for s in shown)]
        assert all(max(a["right"] for a in x) < min(b["left"] for b in y) for x, y in zip(layers, layers[1:])), shown
        # Two into their windows, two into the join, and one behind each that follows.
        assert page.browser.run("return document.querySelectorAll('#line svg path').length") == 7
        note(", ".join(s["step"] for s in shown))
    with checks.check("every step tells how many rows a second come in") as note:
        rates = eventually("rates", lambda: (r := [s["in"] for s in page.browser.run(steps)]) and all(re.search(r"[1-9].*/s$", x) for x in r) and r)
        note("; ".join(rates))
    with checks.check("a chosen step tells all of its figures, and closes again") as note:
        press(page, "#line .step[data-step=join]")
        told = eventually("its figures", lambda: page.text("#line-detail"))
        for part in ("label join", "pending impressions", "state: impressions", "state: known keys", "watermark"):
            assert part in told, told
        press(page, "#line .step[data-step=join]")
        assert hidden(page, "#line-detail")


def click_in_feed(checks, page):
    with checks.check("the feed shows its cards, ranked by probability"):
        eventually("cards", lambda: len(page.cards()) == CARDS)

        def ranked():
            shown = [c["percent"] for c in page.cards()]
            return shown == sorted(shown, reverse=True) and shown[0] > 0
        eventually("cards in the order of their probabilities", ranked)
    # Longer than the demo's attribution window: whoever reads the page first and clicks then must be heard as well.
    time.sleep(6)
    # The model is seconds old and moves fast. A card in the lower half has a way to go.
    before = page.cards()
    title = before[len(before) * 2 // 3]["title"]
    corrected, unmatched = page.counter("corrections"), page.counter("unmatched")
    took = []
    with checks.check(f"each of {CLICKS} clicks on a card that was not first is answered with its milliseconds") as note:
        for n in range(CLICKS):
            page.click_card(title)
            clicked = "1 click" if n == 0 else f"{n + 1} clicks"
            eventually("the click counted", lambda: page.text("#feed-clicks") == clicked)
            found = eventually("'changed in N ms' on the card", lambda: re.fullmatch(r"changed in ([\d.]+) ms", page.card(title)[1]["note"]), 8)
            took.append(float(found[1]))
            time.sleep(1.0)
        note(", ".join(f"{t:g}" for t in took) + " ms")
    with checks.check(f"the middle click changed the prediction within {CLICK_MAX_MS} ms") as note:
        assert len(took) == CLICKS, f"{len(took)} of {CLICKS} clicks were answered"
        middle = statistics.median(took)
        assert middle <= CLICK_MAX_MS, f"{middle:g} ms in the middle of {took}"
        note(f"{middle:g} ms")
    with checks.check("every click found its impression"):
        assert page.counter("unmatched") == unmatched, f"{page.counter('unmatched')} clicks unmatched, {unmatched} before"
        assert page.counter("corrections") >= corrected + CLICKS, (corrected, page.counter("corrections"))
    after = page.cards()
    # What is shown and not clicked counts against the reader, so all percents may sink; this card's stands out more.
    with checks.check("the clicked card's shown probability rises against the others'") as note:
        shares = [share(cards, title) for cards in (before, after)]
        assert shares[1] > shares[0] * 1.05, f"{title} was {shares[0]:.2f} times the others and is {shares[1]:.2f} times"
        percents = [next(c["percent"] for c in cards if c["title"] == title) for cards in (before, after)]
        note(f"{title}: {percents[0]:g}% -> {percents[1]:g}%, {shares[0]:.2f} -> {shares[1]:.2f} times the others")
    with checks.check("the ranking follows: other order, the clicked card higher") as note:
        assert sorted(c["title"] for c in after) == sorted(c["title"] for c in before), "the cards are not the same"
        assert [c["title"] for c in after] != [c["title"] for c in before], "the order is as it was before the clicks"
        ranks = [next(i for i, c in enumerate(cards) if c["title"] == title) + 1 for cards in (before, after)]
        assert ranks[1] < ranks[0], f"{title} was at {ranks[0]} and is at {ranks[1]}"
        note(f"{title}: {ranks[0]} -> {ranks[1]}")
    page.leave()


def share(cards, title):
    """A card's percent as a multiple of the other cards' mean."""
    return next(c["percent"] for c in cards if c["title"] == title) / statistics.mean(c["percent"] for c in cards if c["title"] != title)


def roll_back_and_return(checks, page):
    old = None
    with checks.check("'roll back' on an older version makes it live") as note:
        rows = page.versions()
        assert len(rows) >= 2, f"only {len(rows)} versions"
        old = rows[-1]["version"]
        # The table is drawn again as versions come and ages grow; a row may be replaced between finding and clicking.
        press(page, f"[aria-label='roll back to version {old}']")
        eventually("the header saying so", lambda: page.text("#pinned") == f"rolled back to {old}" and not hidden(page, "#pinned"))
        eventually("the table saying so", lambda: [(r["version"], r["live"]) for r in page.versions() if r["live"]] == [(old, "live, pinned")])
        eventually("the model's name with that version", lambda: page.text("#live-version") == f"@{old}")
        note(f"version {old}")
    with checks.check("while rolled back, the shown probabilities stand still"):
        def shown():
            return sorted((c["title"], c["percent"]) for c in page.cards())
        time.sleep(1.5)  # the feed asks once a second
        first = shown()
        time.sleep(2.5)
        assert shown() == first, f"{first} became {shown()}"
    with checks.check("'follow newest' takes it back") as note:
        press(page, "#promote")
        eventually("the header without a pin", lambda: hidden(page, "#pinned"))
        eventually("a newer version live", lambda: any(r["live"] == "live, growing" and r["version"] != old for r in page.versions()))
        first = [c["percent"] for c in page.cards()]
        eventually("probabilities moving again", lambda: [c["percent"] for c in page.cards()] != first)


def press(page, selector):
    def tried():
        try:
            page.browser.click(page.browser.find(selector))
            return True
        except WebDriverError as e:
            if e.code in ("no such element", "stale element reference", "element not interactable"):
                return False
            raise
    eventually(f"a button {selector}", tried, 10)


def hidden(page, selector):
    return page.browser.run("return document.querySelector(arguments[0]).hidden", selector)


def take_pictures(checks, page, screenshots):
    for name, width, height in (("desk", 1280, 800), ("phone", 390, 844)):
        with checks.check(f"at {width}x{height} nothing is cut off at the side") as note:
            page.browser.size(width, height)
            time.sleep(0.8)  # charts take on the new width, cards glide
            path = screenshots / f"page-{name}-{width}x{height}.png"
            png = page.browser.screenshot(path)
            assert struct.unpack(">II", png[16:24]) == (width, height), struct.unpack(">II", png[16:24])
            wide = page.browser.run("return document.documentElement.scrollWidth")
            assert wide <= width, f"the page is {wide} wide"
            for plot in ("#plot-loss", "#plot-rate", "#plot-staleness"):
                assert page.painted(plot) > 500, f"{plot} is empty"
            note(str(path))


def page_checks(checks, demo, page, screenshots):
    see_figures(checks, page, page.browser.title())
    look_at_line(checks, page)
    click_in_feed(checks, page)
    take_pictures(checks, page, screenshots)
    page.browser.size(1280, 800)
    roll_back_and_return(checks, page)
    with checks.check("the page shows no error and the browser logged none"):
        assert page.alerts() == [], page.alerts()
        errors = [e for e in page.browser.log() if e["level"] == "SEVERE"]
        assert not errors, errors
    with checks.check("Ctrl-C ends the program with exit code 0") as note:
        code = demo.interrupt()
        assert code == 0, f"exit code {code}"
        demo.out.wait_for(r"^log loss ", 5)
        assert demo.out.text().startswith("stopped ctr@"), demo.out.text()
        note(demo.out.text().splitlines()[0])
    with checks.check("the page says that the connection is lost"):
        eventually("it", lambda: page.text("#state") == "connection lost, trying again")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
    parser.add_argument("--binary", type=pathlib.Path, default=pathlib.Path(target) / "debug" / "tidemill")
    parser.add_argument("--screenshots", type=pathlib.Path, help="directory for the pictures (default: a new temporary one)")
    parser.add_argument("--rate", type=int, default=3000, help="impressions a second (default 3000)")
    return parser.parse_args()


def main():
    args = parse()

    def hangs(*_):
        raise HangsError(f"not over after {WHOLE_TEST_MAX_S} s")
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(WHOLE_TEST_MAX_S)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    screenshots = args.screenshots or pathlib.Path(tempfile.mkdtemp(prefix="tidemill-page-"))
    screenshots.mkdir(parents=True, exist_ok=True)
    data_dir = pathlib.Path(tempfile.mkdtemp(prefix="tidemill-page-data-"))
    checks = Checks()
    demo = browser = address = None
    try:
        with checks.check("the program starts and says where its page is") as note:
            demo = Demo(args.binary, data_dir, args.rate)
            checks.on_failure.append(("the program's last words", lambda: demo.said.text()[-2000:]))
            address = demo.address()
            note(address)
        with checks.check("the page opens in a browser") as note:
            assert address, "there is no page"
            browser = Browser()
            browser.size(1280, 800)
            page = Page(browser)
            checks.on_failure.append(("the browser's log", lambda: "\n".join(f"{e['level']} {e['message']}" for e in browser.log())))
            checks.on_failure.append(("the page's text", lambda: page.text("body")))
            checks.on_failure.append(("a picture of it", lambda: browser.screenshot(screenshots / "page-failed.png") and screenshots / "page-failed.png"))
            browser.open(address)
            note(f"Chromium {browser.version}")
        if checks.failed == 0:
            page_checks(checks, demo, page, screenshots)
    except HangsError as e:
        checks.failed += 1
        print(f"FAILED  the whole test: {e}")
        signal.alarm(60)
        checks.explain()
    finally:
        signal.alarm(0)
        if browser:
            browser.close()
        if demo:
            end(demo.process)
        shutil.rmtree(data_dir, ignore_errors=True)
    print(f"page: {checks.passed} passed, {checks.failed} failed", flush=True)
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
