"""A protocol is read strictly, and every mistake is told with its line."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta.study.cases import CASES_FILE, read_cases
from pasta.study.example import example_cases, example_protocol
from pasta.study.findings import Lines, ProtocolError
from pasta.study.protocol import PROTOCOL_FILE, check_protocol, read_protocol

PROTOCOL = """\
[study]
id = "trial"
title = "A trial"
seed = 7

[[readers]]
code = "J1"
level = "junior"

[[readers]]
code = "J2"
level = "junior"

[[parts]]
name = "screening"
task = "screen"
organs = ["liver", "kidney"]
arms = ["solo", "assisted"]
budget_minutes = 30
ai = ["screening"]

[[parts.questions]]
id = "tumour"
text = "Is a tumour present?"
type = "yes_no"

[[parts.questions]]
id = "confidence"
text = "How sure are you?"
type = "score"
"""
CASES = """\
image,organ,positive
a,liver,1
b,liver,0
c,liver,1
d,liver,0
e,kidney,1
f,kidney,0
g,kidney,1
h,kidney,0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / PROTOCOL_FILE).write_text(PROTOCOL)
    (tmp_path / CASES_FILE).write_text(CASES)
    return tmp_path


def line_of(text, part):
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


def changed(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    return (folder / name).read_text()


def test_a_right_protocol_has_no_findings(folder):
    assert check_protocol(folder / PROTOCOL_FILE) == []
    protocol = read_protocol(folder / PROTOCOL_FILE)
    assert protocol.part("screening").budget_seconds == 1800
    assert protocol.part("screening").question_of("score").maximum == 100
    assert protocol.reader("J2").level == "junior"
    assert len(read_cases(folder / CASES_FILE, protocol)) == 8


def test_the_example_has_no_findings_and_the_numbers_of_the_paper(tmp_path):
    (tmp_path / PROTOCOL_FILE).write_text(example_protocol())
    (tmp_path / CASES_FILE).write_text(example_cases())
    assert check_protocol(tmp_path / PROTOCOL_FILE) == []
    protocol = read_protocol(tmp_path / PROTOCOL_FILE)
    assert [(reader.code, reader.level) for reader in protocol.readers] == [
        ("J1", "junior"),
        ("J2", "junior"),
        ("S1", "senior"),
        ("S2", "senior"),
    ]
    tasks = [part.task for part in protocol.parts]
    assert tasks == ["screen", "segment", "report", "realism", "consistency"]
    cases = read_cases(tmp_path / CASES_FILE, protocol)
    for organ in ("liver", "pancreas", "kidney"):
        screened = [
            case
            for case in cases
            if case.part == "screening"
            and case.organ == organ
            and not case.image.startswith("training")
        ]
        assert (len(screened), sum(case.positive for case in screened)) == (360, 60)
    assert sum(case.part == "realism" for case in cases) == 1180  # Extended Data Table 5
    assert sum(case.part == "consistency" for case in cases) == 750


@pytest.mark.parametrize(
    ("old", "new", "at", "says"),
    [
        ('id = "trial"', "id = trial", "id = trial", "key = value"),
        ('id = "trial"', 'id = "my trial"', "my trial", "letters, digits"),
        ("seed = 7", 'seed = "7"', "seed", 'the text "7", expected a whole number'),
        ("seed = 7", "seed = true", "seed", "is true, expected a whole number"),
        ("seed = 7\n", "", "[study]", '"seed" is missing'),
        ("title", "titel", "titel", 'did you mean "title"?'),
        ("organs =", "organ =", "organ =", 'did you mean "organs"?'),
        ('"kidney"]', '"kidny"]', "kidny", 'did you mean "kidney"?'),
        ('["liver", "kidney"]', '[\n  "liver",\n  "spleen",\n]', "spleen", "use one of lung"),
        ('["liver", "kidney"]', '["liver", "liver"]', "organs", "twice"),
        ('["liver", "kidney"]', '"liver"', "organs", "expected a list"),
        ('"assisted"]', '"aided"]', "aided", 'did you mean "assisted"?'),
        ('["solo", "assisted"]', '["solo"]', "name = ", "halves need arms"),
        ("budget_minutes = 30", "budget_minutes = -1", "budget", "more than 0"),
        ('code = "J2"', 'code = "j1"', 'code = "j1"', "used already on line 7"),
        ('level = "junior"', 'level = "expert"', "expert", "use one of junior, senior"),
        ('task = "screen"', 'task = "screening"', "task", 'did you mean "screen"?'),
        ('task = "screen"', 'task = "segment"', "task", 'needs a question of type = "mask"'),
        ('ai = ["screening"]\n', "", "name = ", "the assisted arm shows nothing"),
        ('type = "score"', 'type = "likert"', "[[parts.questions]]", "min = 1 and max = 5"),
        ('type = "score"', 'type = "score"\nmin = 5', "min = 5", "a score is 0 to 100"),
        ('type = "score"', 'type = "choice"\noptions = ["a"]', "options", "two options or more"),
        ('id = "confidence"', 'id = "tumour"', 'id = "tumour"', "used already on line 23"),
        ("[[parts.questions]]", "[[parts.question]]", "[[parts.question]]", "unknown key"),
        ("ai =", 'allocation = "random"\nai =', "allocation", "cases_per_arm = 180"),
        ("ai =", "cases_per_arm = 2\nai =", "cases_per_arm", 'allocation = "random" only'),
        ("ai =", 'training_cases = ["z"]\nai =', "training_cases", "add its row"),
    ],
)
def test_each_mistake_in_the_protocol_is_told_with_its_line(folder, old, new, at, says):
    text = changed(folder, PROTOCOL_FILE, old, new)
    findings = check_protocol(folder / PROTOCOL_FILE)
    found = [each for each in findings if says in each.text]
    assert found, findings
    lines = [n for n, line in enumerate(text.splitlines(), 1) if at in line]
    if at == "name = ":  # of a part as a whole
        lines.append(line_of(text, "[[parts]]"))
        lines += [line_of(text, "allocation")] if "allocation" in text else []
    assert found[0].line in lines
    assert re.match(rf"protocol.toml:{found[0].line}: ", str(found[0]))
    if not any(each.file == CASES_FILE or "row" in each.text for each in found):
        with pytest.raises(ProtocolError, match=re.escape(str(found[0]))):
            read_protocol(folder / PROTOCOL_FILE)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("image,", "images,", 1, 'did you mean "image"?'),
        ("image,organ,positive", "image;organ;positive", 1, "with commas"),
        ("positive", "truth", 1, "unknown column"),
        ("a,liver,1", ",liver,1", 2, "is empty"),
        ("b,liver,0", "b,livr,0", 3, 'did you mean "liver"?'),
        ("b,liver,0", "b,pancreas,0", 3, "use one of liver, kidney"),
        ("b,liver,0", "a,liver,0", 3, "there already, on line 2"),
        ("b,liver,0", "b,liver,yes", 3, "use one of 1, 0"),
        ("b,liver,0", "b,liver,", 3, "needs the truth"),
        ("b,liver,0", "b,liver,0,x", 3, "4 values for 3 columns"),
        ("a,liver,1\nb,liver,0\nc,liver,1\nd,liver,0\n", "", 0, "no case is left"),
        ("e,kidney,1\nf,kidney,0\ng,kidney,1", "e,kidney,0\nf,kidney,0", 0, "no positive case"),
        ("d,liver,0", 'd,liver,"0', 9, "a quote that never ends"),
    ],
)
def test_each_mistake_in_the_cases_is_told_with_its_line(folder, old, new, line, says):
    changed(folder, CASES_FILE, old, new)
    found = [each for each in check_protocol(folder / PROTOCOL_FILE) if says in each.text]
    assert found
    assert (found[0].file, found[0].line, found[0].severity) == (CASES_FILE, line, "error")
    with pytest.raises(ProtocolError, match=re.escape(says)):
        read_cases(folder / CASES_FILE, read_protocol(folder / PROTOCOL_FILE))


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (CASES_FILE, "d,liver,0\n", "", "1 negative cases do not part"),
        (PROTOCOL_FILE, '[[readers]]\ncode = "J2"\nlevel = "junior"\n', "", None),
        (
            PROTOCOL_FILE,
            '[[parts.questions]]\nid = "confidence"\ntext = "How sure are you?"\ntype = "score"\n',
            "",
            "there is no ROC",
        ),
    ],
)
def test_what_is_only_doubtful_is_a_warning(folder, name, old, new, says):
    changed(folder, name, old, new)
    findings = check_protocol(folder / PROTOCOL_FILE)
    if says is None:  # one reader cannot be counterbalanced: an error and a warning
        assert {each.severity for each in findings} == {"error", "warning"}
        return
    assert [each.severity for each in findings] == ["warning"]
    assert says in findings[0].text
    read_protocol(folder / PROTOCOL_FILE)


def test_all_mistakes_are_told_at_once_in_the_order_of_lines(folder):
    changed(folder, PROTOCOL_FILE, "seed = 7", 'seed = "x"')
    changed(folder, PROTOCOL_FILE, '"kidney"', '"kidny"')
    changed(folder, PROTOCOL_FILE, 'type = "yes_no"', 'type = "yesno"')
    findings = check_protocol(folder / PROTOCOL_FILE)
    assert len(findings) >= 3
    assert [each.line for each in findings] == sorted(each.line for each in findings)


def test_a_reference_mask_outside_of_the_folder_is_refused(folder):
    changed(folder, CASES_FILE, "image,organ,positive", "image,organ,positive,reference_mask")
    changed(folder, CASES_FILE, "a,liver,1", "a,liver,1,../secret.nii.gz")
    changed(folder, CASES_FILE, "b,liver,0", "b,liver,0,none.nii.gz")
    texts = [each.text for each in check_protocol(folder / PROTOCOL_FILE)]
    assert any("outside of the study folder" in text for text in texts)
    assert any('no file "none.nii.gz"' in text for text in texts)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    (finding,) = check_protocol(tmp_path / PROTOCOL_FILE)
    assert "pasta study new" in finding.text


def test_lines_are_found_in_nested_and_dotted_tables():
    text = "\n".join(
        [
            "# comment [not] = a table",
            'a.b = """',
            "[x]",
            '"""',
            "[[t]]",
            "[[t.u]]",
            "k = [",
            "  1,",
            "  2,",
            "]",
            "[[t.u]]  # second",
            "k = 3",
            "[[t]]",
            "[[t.u]]",
            "k = 4",
        ]
    )
    lines = Lines(text)
    assert lines.of(("a", "b")) == 2
    assert lines.of(("t", 0, "u", 0, "k")) == 7
    assert lines.of(("t", 0, "u", 0, "k"), 2) == 9
    assert lines.of(("t", 0, "u", 1, "k")) == 12
    assert lines.of(("t", 1, "u", 0, "k")) == 15
    assert lines.of(("t", 1, "u", 0, "missing")) == 14


_VALUES = st.sampled_from(
    [
        '"x"',
        "1",
        "-1",
        "1.5",
        "true",
        "[]",
        "[1]",
        '["liver"]',
        "{}",
        "{a = 1}",
        "[[1]]",
        "nan",
        '""',
    ]
)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_no_wrong_value_or_lost_line_goes_unexplained_or_crashes(data):
    """Whatever is wrong: each finding names a line of the file, and reading raises what check tells."""
    lines = example_protocol().splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        if " = " in lines[number] and data.draw(st.booleans()):
            lines[number] = lines[number].split(" = ")[0] + " = " + data.draw(_VALUES)
        else:
            del lines[number]
    text = "\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROTOCOL_FILE
        path.write_text(text)
        findings = check_protocol(path)
        errors = [str(each) for each in findings if each.severity == "error"]
        assert all(0 <= each.line <= len(lines) + 1 and each.text for each in findings)
        if errors:
            with pytest.raises(ProtocolError) as raised:
                read_protocol(path)
            assert sorted(map(str, raised.value.findings)) == sorted(errors)
        else:
            read_protocol(path)


@given(st.text(st.sampled_from('image,organ;positive\n\r"01abliver \x00\ufeffü'), max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_case_list_crashes_the_check(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROTOCOL_FILE
        path.write_text(PROTOCOL)
        for content in (text, CASES.splitlines()[0] + "\n" + text):
            path.with_name(CASES_FILE).write_text(content, encoding="utf-8", newline="")
            assert [each for each in check_protocol(path) if each.severity == "error"]
