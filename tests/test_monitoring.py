"""
The dashboard and the alert rules ask only for series that castd has, and each rule fires when it should.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from castd import outcomes
from castd.observe.metrics import CountedEntry, Counters, Gauges
from castd.testing import Network, memorySite
from tests.support.needs import run
from tests.support.server import pageOf

ROOT = Path(__file__).parent.parent
RULES = ROOT / "etc" / "prometheus" / "castd.rules.yaml"
RULE_TESTS = RULES.with_name("castd.rules.test.yaml")
DASHBOARD = ROOT / "etc" / "grafana" / "castd.json"

#: What PromQL itself has, of what is used here.
LANGUAGE = {"sum", "rate", "increase", "changes", "histogram_quantile", "vector", "label_values", "and", "or"}
#: Labels that Prometheus adds to whatever it scrapes.
SCRAPED = {"job", "instance"}
#: A name with its selector, or a keyword with its list of labels.
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


class Service:
    """A proxydhcp that has heard no other server."""

    counts = {"rivals": 0}  # noqa: RUF012


def exposition() -> str:
    """Return the page of a server that has a transport and a service, and has served nobody."""
    counters = Counters(lambda: [CountedEntry("tftp"), CountedEntry("pxe", "proxydhcp")])
    counters.register(Gauges(counters.labels, list, memorySite(Network(), {}), lambda: [("pxe", Service())]))  # type: ignore[list-item]
    return pageOf(counters).decode()


@pytest.fixture(scope="module")
def series() -> dict[str, dict[str, set[str]]]:
    """The series of a server that has just started, with the values of each of their labels."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(exposition()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
            found[sample.name].setdefault("", set())
    found["up"] = {}
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Return every expression of the dashboard and of the rules."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    yield from (rule["expr"] for rule in rules())


ASKED = sorted(set(expressions()))


def matched(operator: str, pattern: str, value: str) -> bool:
    return bool(re.fullmatch(pattern, value)) if operator == "=~" else pattern == value


@pytest.mark.parametrize("expression", ASKED)
def test_seriesExist(expression: str, series: dict[str, dict[str, set[str]]]) -> None:
    """An expression names series, labels and values that a server has from its start on, before anything happens."""
    names = set()
    for name, selector in SELECTOR.findall(expression):
        names.add(name)
        for label, operator, pattern in MATCHER.findall(selector):
            if label in SCRAPED:
                continue
            assert label in series[name], (name, label)
            for word in pattern.split("|"):
                assert any(matched(operator, word, value) for value in series[name][label]), (name, label, word)
    rest = GROUPING.sub("", SELECTOR.sub(lambda found: f" {found[1]} ", expression))
    rest = re.sub(r"\[[^\]]*\]", "", rest)
    if expression.startswith("label_values"):
        rest = rest.rpartition(",")[0]
    names |= set(re.findall(r"[a-zA-Z_:][\w:]*", rest)) - LANGUAGE
    assert names
    assert names <= series.keys()
    labels = {label for name in names for label in series[name]} | SCRAPED
    for grouping in GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= labels


def test_failures() -> None:
    """What the dashboard and the alert count as failed is what castd does, also on the page for operators."""
    counted = [
        set(value.split("|"))
        for expression in expressions()
        for name, selector in SELECTOR.findall(expression)
        for label, _, value in MATCHER.findall(selector)
        if (name, label) == ("castd_received_total", "outcome") and "|" in value
    ]
    assert counted == [outcomes.COUNTED] * 2
    told = re.search(r"`CastdTransfersFail`, counts (.*?):", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == outcomes.COUNTED
    shown = re.search(r"--failed` shows all but (.*?),\sand of these", (ROOT / "docs" / "operations.md").read_text())
    assert shown is not None
    assert set(re.findall(r"`(\w+)`", shown[1])) == outcomes.ANSWERED


def test_bothDiffer() -> None:
    """A wrong name, label or value is found: the test above can fail."""
    found: Any = {"castd_casts": {"kind": {"group"}}, "up": {}}
    test_seriesExist('sum by (kind, job) (castd_casts{kind=~"group"})', found)
    for wrong in (
        "sum(castd_cast)",
        'castd_casts{kynd="group"}',
        'castd_casts{kind="grupp"}',
        'castd_casts{kind=~"group|grupp"}',
        "sum by (transport) (castd_casts)",
    ):
        with pytest.raises((AssertionError, KeyError)):
            test_seriesExist(wrong, found)


def test_dashboard() -> None:
    """Each panel has a number of its own, a place that no other has, and its source from the variable."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        squares = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not squares & taken, panel["title"]
        taken |= squares
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_everyRuleIsTested() -> None:
    """Each rule says what is wrong and what to do, and has tests of both kinds: it fires, and it does not."""
    fires, silent = set(), set()
    for case in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        quiet = {series["series"] for series in case["input_series"]}
        for test in case["alert_rule_test"]:
            fires.update([test["alertname"]] if test["exp_alerts"] else [])
            # Either at another time, or for another series of the same test.
            if not test["exp_alerts"] or len(test["exp_alerts"]) < len(quiet):
                silent.add(test["alertname"])
    names = {rule["alert"] for rule in rules()}
    assert fires == silent == names
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]


def test_events() -> None:
    """The events that a rule sends its reader to are in the table of the log."""
    page = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules():
        for event in re.findall(r"\(`([a-z-]+)`\)", rule["annotations"]["description"]):
            assert re.search(rf"^\|.*`{event}`.*\|", page, re.MULTILINE), event


@pytest.mark.slow
def test_promtool(tmp_path: Path) -> None:
    """Prometheus' own tool takes the rules, finds that each fires when it should, and likes the metrics."""
    # It writes to /tmp else, where not everybody may.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for words in (("check", "rules", RULES), ("test", "rules", RULE_TESTS)):
        done = run("promtool", *words, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    done = run("promtool", "check", "metrics", input=exposition())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_zeroCounts() -> None:
    """An event that adds nothing makes its series all the same; a duration of 0 s is one, however often it comes."""
    counters = Counters()
    for _ in range(3):
        counters({"event": "received", "transport": "own", "outcome": "done", "octets": 0, "seconds": 0.0})
    page = pageOf(counters).decode()
    for line in (
        'castd_octets_total{transport="own"} 0.0',
        'castd_repeats_total{transport="own"} 0.0',
        'castd_received_total{outcome="done",transport="own",write="false"} 3.0',
        'castd_seconds_bucket{le="0.01",transport="own"} 3.0',
    ):
        assert line in page
