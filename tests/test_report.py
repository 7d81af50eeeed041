"""The report: one page that shows everything and executes nothing."""

import json
import re
from html.parser import HTMLParser

import pytest

from didact.evaluation.alarms import Alarm
from didact.evaluation.learning_curve_plot import PLOT_STYLES, plot_learning_curves
from didact.evaluation.report import percent, write_report
from didact.evaluation.results import ArmResult, CurvePoint, Report
from didact.evaluation.text_sanitizer import plain_text
from didact.types import Feedback, Problem, Provenance, Rollout, Turn

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</svg><script>alert(1)</script>",
    "</style><style>body{display:none}</style>",
    "--><script>alert(1)</script><!--",
    '" onmouseover="alert(1)" x="',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1) https://evil.example/x",
    "\u202eevil\u2066\u200b",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07\x00\x08",
    "$\\frac{1}{2}$ ]]> &lt;b&gt;",
    "\ud800 half",
]


def make_report(text="spell", n_points=3):
    answer = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=(-0.1,), text=text, stop_reason="eos", reward=0.0
    )  # fmt: skip
    revision = answer.model_copy(update={"reward": 1.0, "correct": True, "text": "nus"})
    unscored = answer.model_copy(update={"reward": None, "text": ""})
    said = Feedback(text=text, source="judge", saw_reference=False, provenance=Provenance(author=text))
    failed = said.model_copy(update={"status": "failed", "error": text, "turn": 1})
    rollouts = [
        Rollout(
            id=text,
            group="g",
            problem=Problem.ask(text, id="p"),
            turns=(answer, revision),
            feedback=(said, failed),
        ),
        Rollout(id="b", group="g", problem=Problem.ask("plain", id="p"), turns=(unscored,)),
    ]
    curve = [
        CurvePoint(i, 1000 * i, 2.0 * i, 0.3 * i, (0.3 * i - 0.01, 0.3 * i + 0.05)) for i in range(n_points)
    ]
    trained = ArmResult(
        text, 0.6, (0.55, 0.65), 0.7, (0.6, 0.8), 4.0, 2000, 12, 2, curve, (0.6, 0.52, 0.671), rollouts,
        alarms=[
            Alarm("collapse", 9, f"entropy fell: {text}", "entropy"),
            Alarm("flat feedback", 8, "all the same", "distinct_critiques", stands=False),
        ],
    )  # fmt: skip
    base = ArmResult("base", 0.0, (0.0, 0.019), None, None, 0.0, 0, 0, 0)
    return Report(text, text, 200, 7, [base, trained], text, baseline=text, details={text: text})


class Page(HTMLParser):
    """Collects what a browser would build."""

    VOID = frozenset(["meta", "br", "link", "img", "input", "hr"])

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def render(tmp_path, report):
    source = write_report(tmp_path / "new" / "report.html", report).read_text(encoding="utf-8")
    return source, Page(source)


PAGE = "html head meta title style body main header h1 h2 h3 h4 p figure figcaption div table caption"
PARTS = "thead tbody tr th td small span i details summary article ol li ul strong"
CURVES = "svg g path defs use text rect clippath"
ALLOWED_TAGS = frozenset(f"{PAGE} {PARTS} {CURVES}".split())


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(tmp_path, text):
    source, page = render(tmp_path, make_report(text))
    calm_source, calm = render(tmp_path, make_report("harmless"))
    assert page.open == []
    # Below the curves: a wide name in the key may move the axes' ticks.
    below = [p.tags[p.tags.index("figcaption") :] for p in (page, calm)]
    assert below[0] == below[1]
    assert set(page.tags) <= ALLOWED_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in source.lower()
    assert source.count("<style") == calm_source.count("<style") == 1 + calm_source.count("<style type")
    assert not [
        v for _, n, v in page.attributes if n in ("href", "src", "xlink:href") and not v.startswith("#")
    ]


def test_the_page_holds_no_address_and_a_strict_policy(tmp_path):
    source, page = render(tmp_path, make_report())
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", source.replace("<!doctype", ""))
    (policy,) = [v for _, name, v in page.attributes if name == "content" and v.startswith("default-src")]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "script-src" not in policy


def test_the_page_shows_everything_that_was_found(tmp_path):
    _, page = render(tmp_path, make_report("rltf-sd"))
    text = " ".join(" ".join(page.text).split())
    for part in [
        "60.0 %", "55–65 %", "70.0 %", "60–80 %", "+60", "+52 to +67", "2,000", "12", "not measured",
        "First answer ✗ wrong", "Revision ✓ right", "not verified", "(empty)", "seed 7",
        "rltf-sd , collapse at step 9: entropy fell: rltf-sd.", "all the same. It has passed since.",
        "200 evaluation problems", "did not see the reference", "The critic failed: rltf-sd",
    ]:  # fmt: skip
        assert part in text, part


def test_the_page_can_be_read_without_seeing_colours_or_the_curves(tmp_path):
    source, page = render(tmp_path, make_report())
    assert page.tags.count("caption") >= 2
    assert {value for tag, name, value in page.attributes if tag == "th" and name == "scope"} == {
        "row",
        "col",
    }
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = [value for _, name, value in page.attributes if name == "aria-labelledby"]
    assert named
    assert set(named) <= set(ids)
    assert "prefers-color-scheme: dark" in source
    assert all(f"--arm-{i}: {look.dark}" in source for i, look in enumerate(PLOT_STYLES))
    assert not re.search(r"fill: #(?!fff)|stroke: #", source), "a colour that a dark page cannot change"


def test_no_two_looks_share_marker_dash_or_colour():
    for part in ("light", "dark", "marker", "path", "dash"):
        assert len({str(getattr(look, part)) for look in PLOT_STYLES}) == len(PLOT_STYLES), part


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("look", PLOT_STYLES)
def test_lines_stand_out_from_their_background(look):
    for colour, ground in ((look.light, "#ffffff"), (look.dark, "#14161a")):
        high, low = sorted([luminance(colour), luminance(ground)], reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3


def test_a_report_without_curves_rollouts_or_details_is_still_a_page(tmp_path):
    bare = Report("t", "t", 1, 0, [ArmResult("base", 0, (0, 1), None, None, 0, 0, 0, 0)], "s")
    _, page = render(tmp_path, bare)
    assert page.open == []
    assert page.tags.count("table") == 1


def test_more_arms_than_looks_are_drawn_again_from_the_start(tmp_path):
    arm = ArmResult("m", 0.5, (0.4, 0.6), 0.5, (0.4, 0.6), 1, 1, 0, 1)
    _, page = render(tmp_path, Report("t", "t", 1, 0, [arm] * (len(PLOT_STYLES) + 2), "s"))
    assert page.tags.count("tr") == len(PLOT_STYLES) + 3


def test_the_same_report_gives_the_same_bytes(tmp_path):
    assert render(tmp_path, make_report())[0] == render(tmp_path, make_report())[0]


def test_the_picture_is_a_png_and_an_svg(tmp_path):
    png, svg = plot_learning_curves(tmp_path / "curves", make_report("a$b$ <&>"))
    assert (png.name, svg.name) == ("curves.png", "curves.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text()
    assert "<script" not in svg.read_text()


def test_the_json_holds_exactly_the_published_keys():
    found = json.loads(json.dumps(make_report("rltf-sd").to_json()))
    assert list(found) == ["task", "n_eval", "seed", "results"]
    assert [r["method"] for r in found["results"]] == ["base", "rltf-sd"]
    assert found["results"][1] == {
        "method": "rltf-sd", "accuracy": 0.6, "ci95": [0.55, 0.65], "reward": None,
            "accuracy_after_feedback": 0.7,
        "accuracy_after_own_critique": None, "own_critique_ci95": None,
        "seconds": 4.0, "sampled_tokens": 2000, "steps": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "link"),
        ("\x1b]0;t\x1b\\x", "x"),
        ("\x1b", "␛"),
        ("\x00\x7f\x85", "␀␡⟨U+0085⟩"),
        ("a\u202eb\u2066\u200f", "a⟨U+202E⟩b⟨U+2066⟩⟨U+200F⟩"),
        ("\U000e0041\ufeff\u2028", "⟨U+E0041⟩⟨U+FEFF⟩⟨U+2028⟩"),
        ("👩\u200d🔬 می\u200cروم é", "👩\u200d🔬 می\u200cروم é"),
        ("\ud800", "⟨U+D800⟩"),
        ("<b>", "<b>"),
    ],
)
def test_hidden_and_reordering_characters_are_made_visible(raw, shown):
    assert plain_text(raw) == shown


def test_long_text_is_cut_and_says_so():
    assert plain_text("x" * 5000, limit=10) == "x" * 10 + "… (4,990 more characters)"


def test_percent_keeps_a_true_minus():
    assert [percent(0.5), percent(1), percent(-0.013, 1)] == ["50 %", "100 %", "−1.3 %"]
