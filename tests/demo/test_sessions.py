"""What the page keeps for its visitors, and what it removes."""

import shutil
import time

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.demo.sessions import Sessions


class Kept:
    """As much of a prediction as matters here."""

    def __init__(self, sessions):
        self.folder = sessions.new_folder()
        (self.folder / 'change.tif').touch()

    def remove(self):
        shutil.rmtree(self.folder)


def test_latest_prediction_of_a_visitor_is_kept_and_the_last_one_removed(tmp_path):
    sessions = Sessions(tmp_path)
    first, second, other = (Kept(sessions) for _ in range(3))
    sessions.keep('anna', first)
    sessions.keep('ben', other)
    sessions.keep('anna', second)
    assert sessions.get('anna') is second
    assert sessions.get('ben') is other
    assert not first.folder.exists()
    assert second.folder.exists()


def test_who_was_away_longest_is_given_up(tmp_path):
    sessions = Sessions(tmp_path, capacity=2)
    kept = [Kept(sessions) for _ in range(3)]
    sessions.keep('anna', kept[0])
    sessions.keep('ben', kept[1])
    sessions.get('anna')
    sessions.keep('carl', kept[2])
    assert sessions.get('anna') is kept[0]
    with pytest.raises(UserError, match='press Predict again'):
        sessions.get('ben')
    assert [one.folder.exists() for one in kept] == [True, False, True]


def test_what_a_visitor_leaves_is_removed(tmp_path):
    sessions = Sessions(tmp_path)
    kept = [Kept(sessions) for _ in range(2)]
    sessions.keep('anna', kept[0])
    sessions.close('anna')
    sessions.close('nobody')
    sessions.keep('ben', kept[1])
    sessions.sweep(3600)
    assert kept[1].folder.exists()
    time.sleep(0.01)
    sessions.sweep(0.005)
    assert len(sessions) == 0
    assert list(tmp_path.iterdir()) == []
