"""``mtkd-cd demo`` hands its arguments on, and says what is missing."""

import sys

import pytest

from mtkd_cd.cli.demo import main
from mtkd_cd.core.errors import UserError


def test_missing_extra_is_named_before_anything_is_opened(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(UserError, match=r"pip install 'mtkd-cd\[demo\]'"):
        main(['nothing.mtkd'])


@pytest.mark.parametrize('option', ['--max-upload', '--max-pixels'])
@pytest.mark.parametrize('value', ['0', 'inf', 'many'])
def test_limits_are_numbers_above_zero(option, value, capsys):
    with pytest.raises(SystemExit):
        main([option, value])
    assert 'a number above 0 is needed' in capsys.readouterr().err
