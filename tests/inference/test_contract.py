"""The page that says what prediction promises names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_page_of_promises_names_tests_that_exist():
    page = (ROOT / 'docs' / 'predict_contract.md').read_text()
    named = set(re.findall(r'`(test_\w+)`', page))
    files = (ROOT / 'tests' / 'inference').glob('test_*.py')
    written = {name for file in files for name in re.findall(r'def (test_\w+)', file.read_text())}
    assert len(named) > 40
    assert named <= written
    promises = re.findall(r'^\| (\d+)\. .*`test_', page, re.MULTILINE)
    assert promises == [str(number) for number in range(1, 14)]
