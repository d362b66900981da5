"""The page: self-contained, safe with any name, small, with the numbers of the result files."""

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from helpers.result_files import make_log, make_result, write_comparison, write_run

from fedpeft.errors import UserError
from fedpeft.reports import write_report

HOSTILE = "</script><script>alert(1)</script><!--\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements, ids, the text of tables' cells by figure, and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.links: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if "download" in dict(attrs):
            self.links[dict(attrs)["download"]] = dict(attrs)["href"]


def read(file) -> tuple[str, Page]:
    text = file.read_text()
    return text, Page(text)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two methods over two seeds, and their report."""
    folder = tmp_path_factory.mktemp("reports") / "out"
    kept = write_comparison(folder, ["local", "fedreft"], 2, ["a", "b", "c"], 4, ("mixing_weight",))
    return kept, *read(write_report(folder))


def test_the_headline_holds_the_numbers_of_the_comparison(comparison):
    kept, _, page = comparison
    table = json.loads(unquote(page.links["headline.json"].partition(",")[2]))
    numbers = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    for row, own in zip(kept["rows"], numbers, strict=True):
        assert (own["deployed"], own["deployed, sd"]) == (row["deployed"]["mean"], row["deployed"]["sd"])
    assert numbers[0]["trained parameters"] == 1071 and numbers[0]["down + up (bytes per client and round)"] == 3072.5


def test_every_client_s_score_is_there(comparison):
    kept, _, page = comparison
    lines = unquote(page.links["deployed-scores.csv"].partition(",")[2]).splitlines()
    for line in lines[1:]:
        client, local, _ = line.split(",")
        scores = [result["test_by_client"]["deployed"][client]["accuracy"] for result in kept["runs"]["local"]]
        assert float(local) == sum(scores) / 2


def test_differences_are_paired_by_seed_and_client(comparison):
    kept, _, page = comparison
    (_, line) = unquote(page.links["differences.csv"].partition(",")[2]).splitlines()
    other, difference, low, high, crosses, seeds, better, equal, worse = line.split(",")
    means = {label: sum(r["test"]["deployed"]["by_client"] for r in runs) for label, runs in kept["runs"].items()}
    assert means[other] < max(means.values()) and seeds == "2"
    (best,) = kept["runs"].keys() - {other}
    pairs = [
        own["test_by_client"]["deployed"][c]["accuracy"] - base["test_by_client"]["deployed"][c]["accuracy"]
        for own, base in zip(kept["runs"][best], kept["runs"][other], strict=True)
        for c in "abc"
    ]
    assert crosses == ("yes" if float(low) <= 0 <= float(high) else "no")
    assert float(difference) == pytest.approx(sum(pairs) / 6) and float(low) <= float(difference) <= float(high)
    assert [int(better), int(equal), int(worse)] == [sum(p > 0 for p in pairs), 0, sum(p < 0 for p in pairs)]


def test_a_methods_place_beside_the_best_is_its_paired_interval(comparison):
    _, _, page = comparison
    rows = {
        name: list(csv.DictReader(unquote(page.links[f"{name}.csv"].partition(",")[2]).splitlines()))
        for name in ("headline", "differences", "tradeoff-bytes")
    }
    best = next(row for row in rows["headline"] if row["apart from best"] == "best")
    (difference,) = rows["differences"]
    other = next(row for row in rows["headline"] if row["method"] == difference["method"])
    assert other["apart from best"] == {"yes": "no", "no": "yes"}[difference["interval crosses zero"]]
    points = {row["method"]: row for row in rows["tradeoff-bytes"]}
    assert points[best["method"]]["low"] == points[best["method"]]["high"] == ""
    low, high = (float(points[other["method"]][end]) for end in ("low", "high"))
    assert low == pytest.approx(float(best["deployed"]) - float(difference["high"]))
    assert high == pytest.approx(float(best["deployed"]) - float(difference["low"]))
    assert low <= float(other["deployed"]) <= high


def test_what_the_server_knows_is_a_map_over_the_rounds(tmp_path):
    result = make_result("fedhft", 0, ["a", "b"], 2)
    known = [
        {"cluster": j, "responsibility_1": 0.25 + j / 2, "round": r, "split": "server", "client": c}
        for r in (1, 2)
        for j, c in enumerate("ab")
    ]
    text, page = read(write_report(write_run(tmp_path / "run", result, make_log(result) + known)))
    lines = unquote(page.links["scalar-fedhft-responsibility-1.csv"].partition(",")[2]).splitlines()
    assert lines == ["client,1,2", "a,0.25,0.25", "b,0.75,0.75"]
    assert "fedhft: Responsibility of cluster 1 by client and round" in text and "As the server has it after" in text
    assert "fedhft: Cluster by client and round" in text


def test_costs_to_a_target_are_those_of_the_comparison(tmp_path):
    comparison = write_comparison(tmp_path / "out", ["local", "fedreft"], 1, ["a"], 1)
    cost = {"seeds": 1, "reached": 1, "round": 3, "bytes": 2**20, "client_seconds": 1.5, "peak_memory_mib": 90.0}
    never = {"seeds": 1, "reached": 0, "round": None, "bytes": None, "client_seconds": None, "peak_memory_mib": None}
    methods = {"local": never, "fedreft": cost}
    comparison["cost_to_target"] = {"fedreft": {"score": 0.9, "methods": methods}, "0.5": {"score": 0.5, "methods": {}}}
    (tmp_path / "out/compare.json").write_text(json.dumps(comparison))
    text, page = read(write_report(tmp_path / "out"))
    assert "1 of 2 methods reach 90.0 % with every seed." in text
    lines = unquote(page.links["cost-to-target.csv"].partition(",")[2]).splitlines()
    assert lines[1:] == ["local,0/1,,,,", "fedreft,1/1,3.0,1048576.0,1.5,90.0"]


def test_only_its_own_scripts_run_and_nothing_is_loaded(comparison):
    _, text, page = comparison
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert re.findall(r"'sha256-([^']*)'", policy) == digests and len(digests) == 3
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    addresses = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not {"iframe", "object", "embed", "form", "base"} & set(page.tags)


def test_ids_are_unique_and_charts_have_their_figures(comparison):
    _, text, page = comparison
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert set(json.loads(data)) < set(ids)


def test_hostile_names_stay_text(tmp_path):
    clients = [HOSTILE, HOSTILE + "2"]
    result = make_result(HOSTILE, 0, clients, 2, notes=[HOSTILE])
    result["label_fractions"] = {client: {HOSTILE: 0.5, "pos": 0.5} for client in clients}
    log = [{**line, "quarantined": HOSTILE, HOSTILE: 1.0} for line in make_log(result)]
    plain = make_result("fedit", 0, ["a", "b"], 2)
    _, expected = read(write_report(write_run(tmp_path / "plain", plain, make_log(plain))))
    text, page = read(write_report(write_run(tmp_path / "<img src=x>", result, log)))
    assert set(page.tags) <= {*expected.tags, "ul", "li", "th", "td"}
    assert page.tags.count("script") == expected.tags.count("script") and "<!--" not in text.partition("<body>")[2]
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_nan_and_missing_parts_leave_a_page(tmp_path):
    result = make_result("fedit", 0, ["a"], 1, bytes_up=None, adapter_parameters=None, head_parameters=None, seconds={})
    result["test_by_client"]["deployed"]["a"]["accuracy"] = float("nan")
    result["test"]["deployed"] = {"by_client": float("nan"), "worst_client": None}
    text, _ = read(write_report(write_run(tmp_path / "run", result, [])))
    assert "NaN" not in re.findall(r'id="data">(.*?)</script>', text, re.S)[0]


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    result = make_result("fedit", 0, ["a"], 3)
    text, _ = read(write_report(write_run(tmp_path / "run", result, [], finished=False)))
    assert "not finished, 0 of 3 rounds completed" in text


def test_fifty_clients_fifty_rounds_and_five_methods_stay_small(tmp_path):
    clients = [f"client-{i}" for i in range(50)]
    write_comparison(tmp_path / "out", ["a", "b", "c", "d", "fedreft"], 1, clients, 50, ("mixing_weight",))
    file = write_report(tmp_path / "out")
    assert file.stat().st_size < 2_000_000


def test_many_clients_and_rounds_are_thinned_and_it_is_said(tmp_path):
    result = make_result("fedit", 0, [f"c{i:04d}" for i in range(400)], 1)
    text, _ = read(write_report(write_run(tmp_path / "run", result, make_log(result))))
    assert "100 of 400 clients, evenly spaced" in text


def test_results_of_the_benchmarks_have_a_report(tmp_path):
    from pathlib import Path

    kept = Path(__file__).parents[2] / "benchmarks" / "results" / "reviews.json"
    text, _ = read(write_report(kept, tmp_path / "reviews.html"))
    assert "Paired differences from fedit" in text


def test_where_it_cannot_be_written_is_one_line(tmp_path):
    result = make_result("fedit", 0, ["a"], 1)
    folder = write_run(tmp_path / "run", result, [])
    with pytest.raises(UserError, match="cannot write"):
        write_report(folder, tmp_path / "nowhere" / "report.html")
