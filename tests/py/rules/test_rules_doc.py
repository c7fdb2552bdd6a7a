"""Each sentence of docs/rules.md has its test, and no test is named after a sentence that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/rules.md").read_text()
SENTENCES = re.findall(r"^- \*\*R(\d+)\*\* .*?\[(c|py|airflow:\s+\w+)\]$", TEXT, re.M | re.S)
TESTS = {"c": r"^r(\d+)_\w+\(void", "py": r"^def test_r(\d+)_\w+\("}


def found(where: str, pattern: str) -> set[str]:
    files = [p for p in (ROOT / "tests" / where).rglob("test_*") if p.suffix in {".c", ".py"}]
    return {match for path in files for match in re.findall(pattern, path.read_text(), re.M)}


def test_sentences_are_numbered_in_order():
    assert [int(number) for number, _ in SENTENCES] == list(range(1, TEXT.count("- **R") + 1))


@pytest.mark.parametrize("where", TESTS)
def test_each_sentence_has_its_test(where):
    assert {number for number, place in SENTENCES if place == where} == found(where, TESTS[where])


def test_each_sentence_about_airflow_has_its_test():
    named = {place.split()[1] for _, place in SENTENCES if place.startswith("airflow")}
    assert len(named) > 10
    assert named <= found("airflow", r"^def (test_\w+)\(")
