import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from penstock.examples.retail.recording import Figure, LagLine, QualityLine, Recording, RollbackMark, TierBytes, VersionMark
from penstock.examples.retail.report import write_report
from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.times import EventTime

DAY = 86_400_000_000


def day(number):
    return EventTime(15_000 * DAY + number * DAY)


@pytest.fixture
def recording():
    days = tuple(range(60))
    return Recording(
        title="A <story> & its end",
        summary="Made up for a test.",
        quality=(
            QualityLine(role="control", label="control", at=tuple(map(day, days)), auc=(0.8,) * 60),
            QualityLine(
                role="served", label="served", at=tuple(map(day, days)), auc=tuple(0.4 if 30 <= d < 36 else 0.8 for d in days)
            ),
        ),
        lag=(LagLine(label="replica-0", at_s=(0.0, 1.0, 2.0), lag_ms=(3.0, 40.0, 2.5)),),
        tiers=(
            TierBytes(tier="snapshot", bytes=2_000_000, writes=1, rows=6000),
            TierBytes(tier="delta", bytes=0, writes=0, rows=0),
            TierBytes(tier="update", bytes=400_000, writes=4000, rows=4000),
        ),
        versions=(
            VersionMark(version=1, kind="snapshot", timeline=1, at_s=1.0, trained_through=day(20)),
            VersionMark(version=2, kind="delta", timeline=1, at_s=5.0, trained_through=day(34)),
            VersionMark(version=3, kind="rollback", timeline=2, at_s=6.0, trained_through=day(29)),
        ),
        poison=(day(30), day(36)),
        rollback=RollbackMark(at=day(34), at_s=6.0, before=day(30), again=0.79),
        figures=(Figure(name="AUC <before>", value="0.8", note="a & b"),),
    )


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.tags, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text.append(data.strip())


def test_the_page_needs_nothing_else(recording, tmp_path):
    report = write_report(recording, tmp_path / "new" / "folder")
    content = report.page.read_text(encoding="utf-8")
    page = Page()
    page.feed(content)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert set(re.findall(r"url\(#([^)]*)\)", content)) <= set(page.ids)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", content)
    assert page.tags.count("svg") == 4
    assert len(page.ids) == len(set(page.ids))


def test_the_page_says_what_was_recorded(recording, tmp_path):
    page = Page()
    page.feed(write_report(recording, tmp_path).page.read_text(encoding="utf-8"))
    for text in ("A <story> & its end", "AUC <before>", "a & b", "poisoned labels", "v3, timeline 2", "replica-0", "6,000 rows"):
        assert text in page.text, text


def test_every_chart_is_well_formed_and_takes_its_colours_from_the_page(recording, tmp_path):
    content = write_report(recording, tmp_path).page.read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", content, flags=re.DOTALL)
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert not set(re.findall(r"#[0-9a-f]{6}\b", drawing))
    names = set(re.findall(r"var\(--(\w+)\)", "".join(drawings)))
    light, dark = re.findall(r":root \{([^}]*)\}", content)
    for palette in (light, dark):
        assert names <= set(re.findall(r"--(\w+): #[0-9a-f]{6};", palette))


def test_equal_recordings_give_equal_pages(recording, tmp_path):
    one, other = (write_report(recording, tmp_path / name).page.read_bytes() for name in ("one", "other"))
    assert one == other


def test_the_picture_is_a_png_of_a_decent_size(recording, tmp_path):
    picture = write_report(recording, tmp_path).picture.read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20], "big") > 1000


@pytest.mark.parametrize("empty", ["quality", "lag", "tiers", "versions"])
def test_a_recording_that_lacks_something_is_refused_and_nothing_written(recording, tmp_path, empty):
    with pytest.raises(InvalidInput, match="lacks one"):
        write_report(replace(recording, **{empty: ()}), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_series_that_are_none_are_refused():
    with pytest.raises(InvalidInput, match="1 values at 2 times"):
        QualityLine(role="served", label="x", at=(day(1), day(2)), auc=(0.5,))
    with pytest.raises(InvalidInput, match="must grow"):
        QualityLine(role="served", label="x", at=(day(2), day(2)), auc=(0.5, 0.6))
    with pytest.raises(InvalidInput, match="above 0 ms"):
        LagLine(label="x", at_s=(1.0,), lag_ms=(0.0,))
