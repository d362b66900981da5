"""The page in a browser: every chart is drawn, with hostile names too, and nothing is said on the console."""

import re
import shutil
import subprocess

import pytest
from helpers.result_files import write_comparison

from fedpeft.reports import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--window-size=1200,20000", "--virtual-time-budget=3000", "--dump-dom",
)  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_all_charts_are_drawn_without_a_word_on_the_console(tmp_path):
    labels = ["local", "fedreft", "<b>&amp;</b>"]
    write_comparison(tmp_path / "out", labels, 2, ["a", "<img src=x onerror=alert(1)>"], 4, ("mixing_weight",))
    file = write_report(tmp_path / "out")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    charts = re.findall(r'<div class="chart"(.*?)<p class="readout"', done.stdout, re.S)
    assert len(charts) >= 12 and all("<svg" in chart for chart in charts)
    assert not re.search(r"<img|<b>", done.stdout)
