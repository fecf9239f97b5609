"""The page of the metrics address in a real browser, while castd serves a real group."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Late, eventually, free
from tests.support.lab.browser import PATIENCE, chromium
from tests.support.lab.castd import Alone

GROUP = "239.255.79.9"
HALL = b"images/hall.img\0octet\0multicast\0\0blksize\0001024\0"
#: The blocks of its file, and how many of them come at once.
BLOCKS, QUICK = 4_000, 1_300
#: Seconds for each of the others, which so take longer than all of these tests.  A master that gets less than a
#: hundredth of the file in ten seconds would lose its turn.
PACE = 0.1
#: The second member asks when the first one has so many.
FIRST = 20
#: Where a fresh picture of the page for the documentation is written, if anywhere.
SCREENSHOT = "CASTD_SCREENSHOT"
HOSTILE = "<script>document.title='owned'</script><b id=owned>\u202egpj.exe"
PHONE = 360


class Client(threading.Thread):
    """
    A client that goes on for as long as the test takes: it acknowledges one block after the other.

    @ivar begun: it has the first blocks; C{hasted}: all those that it was to receive quickly.
    """

    def __init__(self, server: tuple[str, int], request: bytes, quick: int, group: tuple[str, int] | None) -> None:
        """
        @param quick: so many blocks are acknowledged at once, further ones after some time.
        @param group: where its blocks are sent; L{None}: to itself.
        """
        super().__init__(daemon=True)
        self.begun, self.hasted = threading.Event(), threading.Event()
        self._over = threading.Event()
        self._quick = quick
        self._socket, self._first, self._tid = asking(server, request)
        self._blocks = self._socket if group is None else hearing(group)

    def run(self) -> None:
        datagram, expected = self._first, 1
        if self._blocks is not self._socket:
            self._socket.sendto(b"\0\4\0\0", self._tid)
        while not self._over.is_set():
            if datagram[:2] == b"\0\3" and int.from_bytes(datagram[2:4], "big") == expected:
                if expected >= FIRST:
                    self.begun.set()
                if expected >= self._quick:
                    self.hasted.set()
                    self._over.wait(PACE)
                self._socket.sendto(b"\0\4" + datagram[2:4], self._tid)
                expected += 1
            try:
                datagram = self._blocks.recv(2048)
            except TimeoutError:
                continue
        self._socket.sendto(b"\0\5\0\0over\0", self._tid)
        self._socket.close()
        self._blocks.close()

    def end(self) -> None:
        self._over.set()
        self.join()


def asking(server: tuple[str, int], request: bytes) -> tuple[socket.socket, bytes, tuple[str, int]]:
    """Ask as a client does, until there is an answer.  -> its socket, the answer, and who gave it."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.1", 0))
    client.settimeout(1)
    end = time.monotonic() + PATIENCE
    while True:
        client.sendto(b"\0\1" + request, server)
        try:
            return client, *client.recvfrom(2048)
        except TimeoutError:
            if time.monotonic() > end:
                client.close()
                raise


def hearing(group: tuple[str, int]) -> socket.socket:
    """Return a socket that hears what is sent to a group on loopback."""
    hears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    hears.bind(group)
    membership = socket.inet_aton(group[0]) + socket.inet_aton("127.0.0.1")
    hears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    hears.settimeout(0.5)
    return hears


class Scene:
    """
    A castd with a group of three: one has the turn, one listens from the begin, one from a third of the file on; with a
    transfer by unicast, and somebody who was refused.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "boot" / "images").mkdir(parents=True)
        (folder / "boot" / "images" / "hall.img").write_bytes(bytes(BLOCKS * 1024 - 100))
        (folder / "boot" / "kernel").write_bytes(bytes(300_000))
        multicast, data, web = free(socket.SOCK_DGRAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
        self.castd = Alone(
            folder,
            {
                "content": [{"directory": {"path": "boot"}}],
                "metrics": {"listen": f"127.0.0.1:{web}"},
                "transports": {
                    "multicast": {
                        "port": multicast,
                        "interface": "127.0.0.1",
                        "groups": f"{GROUP}/32",
                        "data-port": data,
                        "clients": ["127.0.0.0/8"],
                        "gather": 0,
                    },
                },
            },
        )
        self.url = f"http://127.0.0.1:{web}/"
        with ExitStack() as life:
            life.callback(self.castd.end)
            self._people(life, ("127.0.0.1", multicast), ("127.0.0.1", self.castd.port), data)
            self.end = life.pop_all().close

    def _people(self, life: ExitStack, multicast: tuple[str, int], tftp: tuple[str, int], data: int) -> None:
        """Let everybody come."""
        master = client(life, multicast, HALL, QUICK, (GROUP, data))
        # One that joins before the first block would soon get the turn, to show that it hears the group.
        assert master.begun.wait(PATIENCE)
        life.enter_context(asking(multicast, HALL)[0])
        assert master.hasted.wait(PATIENCE)
        life.enter_context(asking(multicast, HALL)[0])
        life.enter_context(asking(tftp, HOSTILE.encode() + b"\0octet\0")[0])
        client(life, tftp, b"kernel\0octet\0", 5, None)


def client(life: ExitStack, *given: Any) -> Client:
    """Start a client that ends with C{life}."""
    made = Client(*given)
    made.start()
    life.callback(made.end)
    return made


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A castd that has something to show."""
    made = Scene(tmp_path_factory.mktemp("scene"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that runs scripts."""
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as driver:
        yield driver


def text(browser: Any) -> str:
    """Return what the page shows."""
    return str(browser.execute_script("return document.body.innerText"))


def visit(browser: Any, scene: Scene) -> None:
    """Look at the page until the group and its three members are on it."""

    def shown() -> bool:
        browser.get(scene.url)
        return len(rows(browser, "Has")) == 3 and "kernel" in text(browser)

    try:
        eventually(shown, "the group on the page", PATIENCE, every=0.5)
    except Late as late:
        raise Late(f"{late}; the page:\n{text(browser)}\ncastd's log:\n{scene.castd.log()}") from None


def rows(browser: Any, label: str) -> list[str]:
    """Return the cells of this column, from the first row to the last."""
    script = "return [...document.querySelectorAll(`[data-label='${arguments[0]}']`)].map(each => each.innerText)"
    found: list[str] = browser.execute_script(script, label)
    return found


def until(look: Callable[[], object], what: str) -> None:
    """Wait until the page shows something; an element may be exchanged while it is looked at."""
    eventually(look, what, PATIENCE, every=0.1)


def complaints(browser: Any) -> list[str]:
    """Return what the browser complains of: what is not found, what the policy of the page forbids."""
    return [str(each["message"]) for each in browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]


def test_shows(scene: Scene, browser: Any) -> None:
    """The page shows who receives what and which blocks each member of a group has; a stranger's name is only text."""
    visit(browser, scene)
    shown = text(browser)
    for part in ("images/hall.img", "4,000 blocks", "kernel", "in force since", str(scene.castd.process.pid)):
        assert part in shown
    first, second, third = rows(browser, "Map")
    assert first.startswith("has 1–")
    assert "may have" in second
    assert "has" not in second.replace("may have", "")
    assert third.startswith("lacks 1–")
    assert "<script>document.title='owned'</script><b id=owned>\\xe2\\x80\\xaegpj.exe" in shown
    assert browser.title.startswith("castd: serving")
    assert browser.find_elements("id", "owned") == []
    assert complaints(browser) == []
    if target := os.environ.get(SCREENSHOT):
        picture(browser, Path(target))


def picture(browser: Any, target: Path) -> None:
    """Take the picture that stands in the documentation."""
    # The folder of a test run would mislead a reader.
    browser.execute_script("document.querySelector('dd code bdi').textContent = '/etc/castd/castd.yaml'")
    browser.set_window_size(1000, 1520)
    target.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(target))


def test_goesOn(scene: Scene, browser: Any) -> None:
    """With scripts the page goes on by itself, without another load; a button stops that, and starts it again."""
    visit(browser, scene)
    browser.execute_script("window.mine = true")
    before = rows(browser, "Has")[0]
    until(lambda: rows(browser, "Has")[:1] not in ([], [before]), "the next report")
    assert browser.execute_script("return window.mine") is True
    button = browser.find_element("id", "pause")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    # A report that was asked for before is not shown any more.
    before = rows(browser, "Has")[0]
    time.sleep(3)
    assert rows(browser, "Has")[0] == before
    button.click()
    until(lambda: rows(browser, "Has")[:1] not in ([], [before]), "reports once more")
    assert complaints(browser) == []


def test_phone(scene: Scene, browser: Any) -> None:
    """On a phone nothing stands beyond the edge, and the tables are still tables for who cannot see them."""
    metrics = {"width": PHONE, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        visit(browser, scene)
        assert browser.execute_script("return innerWidth") == PHONE
        assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
        beyond = """return [...document.querySelectorAll('main *')].filter(each => {
            const at = each.getBoundingClientRect();
            return at.width > 1 && (at.right > innerWidth + 0.5 || at.left < -0.5);
        }).map(each => each.outerHTML.slice(0, 200))"""
        assert browser.execute_script(beyond) == []
        browser.execute_cdp_cmd("Accessibility.enable", {})
        nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = [each["role"]["value"] for each in nodes if not each["ignored"]]
        for role, least in (("table", 3), ("columnheader", 13), ("rowheader", 8), ("cell", 16), ("heading", 5)):
            assert roles.count(role) >= least, (role, roles.count(role))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Accessibility.disable", {})


def test_keyboard(scene: Scene, browser: Any) -> None:
    """Everything is reached by the keyboard alone, in order, and one sees where one is."""
    from selenium.webdriver import ActionChains, Keys

    def press(key: str) -> Any:
        ActionChains(browser).send_keys(key).perform()
        return browser.switch_to.active_element

    visit(browser, scene)
    skip = press(Keys.TAB)
    assert skip.text == "To what is under way"
    assert skip.rect["y"] >= 0
    assert press(Keys.ENTER).get_attribute("id") == "report"
    visit(browser, scene)
    found = []
    for _ in range(4):
        focused = press(Keys.TAB)
        found.append(focused.text)
        outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineWidth", focused)
        assert float(outline.removesuffix("px")) >= 2, focused.text
        if focused.text == "Pause":
            press(Keys.SPACE)
            assert focused.get_attribute("aria-pressed") == "true"
    assert found == ["To what is under way", "Pause", "This page as JSON", "Metrics for Prometheus"]
    press(Keys.ENTER)
    until(lambda: browser.current_url.endswith("/metrics"), "the metrics")


def test_withoutScripts(scene: Scene, tmp_path: Path) -> None:
    """Without scripts it is all there as plain tables, and looks again if one asks for that."""
    with chromium(tmp_path / "profile", scripts=False) as browser:
        visit(browser, scene)
        assert not browser.find_element("id", "pause").is_displayed()
        first = rows(browser, "Has")[0]
        assert len(rows(browser, "Map")) == 3
        browser.find_element("link text", "Look again every 5 seconds").click()
        until(lambda: rows(browser, "Has")[:1] not in ([], [first]), "the page once more")
        seen = rows(browser, "Has")[0]
        until(lambda: rows(browser, "Has")[:1] not in ([], [seen]), "the page for the third time")


def test_night(scene: Scene, browser: Any) -> None:
    """Who likes it dark gets it dark."""
    visit(browser, scene)
    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    day = browser.execute_script(ground)
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        assert browser.execute_script(ground) not in (day, "rgb(255, 255, 255)")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_serverEnds(tmp_path: Path, browser: Any) -> None:
    """When castd ends, the page says that what it shows may be out of date."""
    scene = Scene(tmp_path)
    try:
        visit(browser, scene)
    finally:
        scene.end()
    until(lambda: "castd does not answer" in text(browser), "the notice")
    with pytest.raises(Late):
        eventually(lambda: "castd does not answer" not in text(browser), "an answer of nobody", 3)
