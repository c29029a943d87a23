"""Locks: they keep other processes out, and die with their owner."""

import multiprocessing
import os
import time

import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.locks import alone

FORK = multiprocessing.get_context('fork')


@pytest.fixture
def lock(tmp_path):
    return tmp_path / 'folder' / 'x.lock'


@pytest.fixture
def holder(lock):
    """A process that holds the lock, and forked a child meanwhile, as a data loader does."""

    def hold():
        with alone(lock):
            child = FORK.Process(target=time.sleep, args=(60,))
            child.start()
            ready.send(child.pid)
            time.sleep(60)

    receiver, ready = FORK.Pipe(duplex=False)
    process = FORK.Process(target=hold)
    process.start()
    assert receiver.poll(60)
    child = receiver.recv()
    yield process
    process.kill()
    process.join()
    os.kill(child, 9)


def test_another_process_is_kept_out_and_told_of_the_holder(lock, holder):
    for _ in range(2):  # whoever looks leaves the holder's id there
        message = f'process {holder.pid} is at work on the work dir: wait for it, or end it'
        with pytest.raises(UserError, match=message), alone(lock, what='the work dir'):
            pass


def test_lock_dies_with_its_owner_though_a_child_lives(lock, holder):
    holder.kill()
    holder.join()
    with alone(lock):
        assert lock.read_text() == str(os.getpid())
    assert not lock.exists()


def test_waiting_process_enters_once_the_other_has_left(lock):
    def enter():
        with alone(lock, wait=True):
            entered.set()

    entered = FORK.Event()
    waiting = FORK.Process(target=enter)
    with alone(lock):
        waiting.start()
        assert not entered.wait(0.5)
    assert entered.wait(60)
    waiting.join()
    assert not lock.exists()


def test_process_that_is_inside_enters_again_and_stays_inside_after(lock):
    with alone(lock):
        with alone(lock):
            pass
        assert lock.read_text() == str(os.getpid())
        other = FORK.Process(target=lambda: alone(lock).__enter__())
        other.start()
        other.join()
        assert other.exitcode != 0  # UserError
    assert not lock.exists()
