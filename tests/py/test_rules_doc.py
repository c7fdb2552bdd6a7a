"""Each sentence of docs/rules.md has the test it says it has, and no test is named after a sentence that is not there.

The sentences about a real scheduler, ``[airflow]``, are looked at only once their tests are there.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SENTENCE = re.compile(r"- \*\*R(\d+)\*\* (.*?) \[(c|py|airflow)\]$", re.M | re.S)
TEST = {"c": r"^(r(\d+)_\w+)\(void", "py": r"^def (test_r(\d+)_\w+)\(", "airflow": r"^def (test_r(\d+)_\w+)\("}


def sentences() -> dict[int, str]:
    text = (ROOT / "docs/rules.md").read_text()
    return {int(number): where for number, _, where in SENTENCE.findall(text)}


def numbers_tested(where: str) -> set[int]:
    files = [p for p in (ROOT / "tests" / where).glob("test_*") if p.suffix in {".c", ".py"}]
    found = [int(m[1]) for path in files for m in re.findall(TEST[where], path.read_text(), re.M)]
    return set(found)


def test_sentences_are_numbered_in_order():
    text = (ROOT / "docs/rules.md").read_text()
    assert list(sentences()) == list(range(1, text.count("- **R") + 1))


@pytest.mark.parametrize("where", ["c", "py"])
def test_each_sentence_has_its_test(where):
    said = {number for number, place in sentences().items() if place == where}
    assert said == numbers_tested(where)


def test_tests_with_a_scheduler_name_sentences_that_are_there():
    assert numbers_tested("airflow") <= set(sentences())
