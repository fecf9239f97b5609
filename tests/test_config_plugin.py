"""Announcements: ours, an outsider's, and those that cannot be used."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from castd import plugins
from castd.config import plugin
from castd.config.plugin import ContentSourceMaker, TransportMaker, collect
from castd.errors import ConfigError
from castd.interfaces import IContentSourceMaker, ITransportMaker

ANNOUNCEMENT = """
from castd.config.plugin import TransportMaker

{name} = TransportMaker("{name}", "{module}", "from elsewhere")
"""

MODULE = """
from castd.options import ListenOptions

class Options(ListenOptions):
    port: int = 7777

class Dialect:
    def __init__(self, options):
        self.options = options
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder castd/plugins of somebody else, on the path; what was imported from it is forgotten afterwards."""
    below = tmp_path / "castd" / "plugins"
    below.mkdir(parents=True)
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(below)])
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield below
    for name in set(sys.modules) - before:
        if name.startswith(("castd.plugins.", "outside")):
            del sys.modules[name]


def test_stock() -> None:
    """What comes with castd is found, without a fault and without importing what it names."""
    found = collect()
    assert found.faults == []
    assert isinstance(found.transports["tftp"], TransportMaker)
    assert isinstance(found.sources["directory"], ContentSourceMaker)


def test_outsider(folder: Path) -> None:
    """A single file in a folder castd/plugins on the path announces a transport; its module waits until it is used."""
    (folder / "mine.py").write_text(ANNOUNCEMENT.format(name="fountain", module="outside_fountain"))
    (folder.parent.parent / "outside_fountain.py").write_text(MODULE)
    found = collect()
    assert found.faults == []
    assert "outside_fountain" not in sys.modules
    fountain = found.transports["fountain"]
    assert verifyObject(ITransportMaker, fountain)
    assert fountain.options().port == 7777


@pytest.mark.slow
def test_outsidersPath(tmp_path: Path) -> None:
    """The folder is found through PYTHONPATH in a fresh process, and no cache is written into it."""
    below = tmp_path / "castd" / "plugins"
    below.mkdir(parents=True)
    (below / "mine.py").write_text(ANNOUNCEMENT.format(name="fountain", module="nowhere"))
    code = "from castd.config.plugin import collect; found = collect(); print(sorted(found.transports), found.faults)"
    root = str(Path(plugins.__file__).parents[2])
    said = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "'fountain'" in said
    assert said.endswith("[]\n")
    assert [each.name for each in below.iterdir()] == ["mine.py"]


def test_broken(folder: Path) -> None:
    """A plugin that fails to import is reported with its file and the reason; the others are found."""
    (folder / "bad.py").write_text("import castd\nraise RuntimeError('not today')\n")
    (folder / "worse.py").write_text("def:\n")
    found = collect()
    assert "tftp" in found.transports
    assert found.faults[0] == (
        f"{folder}/bad.py: cannot be imported: RuntimeError: not today ({folder}/bad.py, line 2)"
    )
    assert found.faults[1].startswith(f"{folder}/worse.py: cannot be imported: SyntaxError: ")


def test_exits(folder: Path) -> None:
    """A plugin that ends the program as it is imported is reported like one that fails."""
    (folder / "bad.py").write_text("import sys\nsys.exit('not today')\n")
    found = collect()
    assert "tftp" in found.transports
    assert found.faults == [f"{folder}/bad.py: cannot be imported: SystemExit: not today ({folder}/bad.py, line 2)"]


def test_oneName(folder: Path) -> None:
    """Two announcements of one name are reported with both files, and the first is used."""
    (folder / "mine.py").write_text(ANNOUNCEMENT.format(name="tftp", module="nowhere"))
    found = collect()
    stock = f"{plugins.__path__[0]}/castd_stock.py"
    assert found.faults == [f"{folder}/mine.py: 'tftp' is announced by {stock} already, which is the one that is used"]
    assert found.transports["tftp"].module == "castd.dialects.tftp"  # type: ignore[attr-defined]


def test_oneFile(folder: Path) -> None:
    """Of two files with one name the hidden one is reported."""
    (folder / "castd_stock.py").write_text(ANNOUNCEMENT.format(name="fountain", module="nowhere"))
    stock = f"{plugins.__path__[0]}/castd_stock.py"
    assert collect().faults == [f"{folder}/castd_stock.py: is hidden by {stock}: give it another name"]


def test_incomplete(folder: Path) -> None:
    """An author's own maker that does not keep to the interface is reported by what it lacks."""
    (folder / "half.py").write_text(
        "from zope.interface import implementer\n"
        "from castd.interfaces import ITransportMaker\n"
        "@implementer(ITransportMaker)\n"
        "class Half:\n"
        "    name = description = 'half'\n"
        "    def makeTransport(self, name, options, site): ...\n"
        "half = Half()\n"
    )
    (fault,) = collect().faults
    assert fault.startswith(f"{folder}/half.py: ")
    assert "options" in fault


def test_entryPoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An entry point announces like a file; one that cannot be loaded, or is in the wrong group, is reported; the same one
    twice is no fault.
    """
    points = [
        EntryPoint("again", "castd.plugins.castd_stock:tftp", "castd.transports"),
        EntryPoint("gone", "castd.nowhere:gone", "castd.transports"),
        EntryPoint("wrong", "castd.plugins.castd_stock:directory", "castd.transports"),
        EntryPoint("shelf", "castd.plugins.castd_stock:directory", "castd.sources"),
    ]
    monkeypatch.setattr(
        plugin, "entry_points", lambda group: EntryPoints(each for each in points if each.group == group)
    )
    found = collect()
    gone, wrong = found.faults
    assert gone.startswith("an entry point (gone = castd.nowhere:gone): cannot be imported: ModuleNotFoundError")
    assert wrong.startswith("an entry point (wrong = castd.plugins.castd_stock:directory): The object ")
    assert "directory" not in found.transports


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (None, "outside_x cannot be imported: ModuleNotFoundError: No module named 'outside_x'"),
        ("1 / 0", "outside_x cannot be imported: ZeroDivisionError: division by zero"),
        ("", "outside_x has no Options"),
        ("Options = 5", "outside_x.Options is no pydantic model"),
    ],
)
def test_promises(folder: Path, module: str | None, complaint: str) -> None:
    """A module that is absent, fails, or lacks what it promises is a complaint to the operator, no traceback."""
    if module is not None:
        (folder.parent.parent / "outside_x.py").write_text(module)
    with pytest.raises(ConfigError) as raised:
        _ = TransportMaker("x", "outside_x", "").options
    assert str(raised.value).startswith(complaint)


def test_makeSource(folder: Path) -> None:
    """A source's module makes it from its options and the site."""
    (folder.parent.parent / "outside_shelf.py").write_text("def makeSource(options, site):\n    return options, site\n")
    shelf = ContentSourceMaker("shelf", "outside_shelf", "")
    assert shelf.makeSource(1, 2) == (1, 2)  # type: ignore[arg-type, comparison-overlap]


def test_interfaces(folder: Path) -> None:
    """Both makers keep to their interfaces."""
    (folder.parent.parent / "outside_y.py").write_text(MODULE)
    assert verifyObject(ITransportMaker, TransportMaker("y", "outside_y", ""))
    assert verifyObject(IContentSourceMaker, ContentSourceMaker("y", "outside_y", ""))
