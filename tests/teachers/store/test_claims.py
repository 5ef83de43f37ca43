"""Only a lock that somebody else has means that somebody else is at a shard."""

import errno
import os
from contextlib import closing

import pytest

from mashbill.errors import MashbillError
from mashbill.teachers.store import claims
from mashbill.teachers.store.claims import Claims


def in_child(work):
    child = os.fork()
    if child == 0:
        os._exit(int(work()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def gets(folder, number):
    with closing(Claims(folder)) as mine, mine.claimed(number) as is_mine:
        return is_mine


def test_a_shard_is_one_process_s_until_it_is_done(tmp_path):
    with closing(Claims(tmp_path)) as mine:
        with mine.claimed(3) as is_mine, mine.alone():
            assert is_mine
            assert in_child(lambda: gets(tmp_path, 3)) == 0
            assert in_child(lambda: gets(tmp_path, 4)) == 1
        assert in_child(lambda: gets(tmp_path, 3)) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EIO])
@pytest.mark.parametrize("how", [lambda mine: mine.claimed(0), Claims.alone])
def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, number, how):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(claims.fcntl, "lockf", fail)
    with (
        closing(Claims(tmp_path)) as mine,
        pytest.raises(MashbillError, match=r"cannot lock a file.*\n  --> .*claims"),
        how(mine),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_a_lock_of_somebody_else_is_none_of_ours(tmp_path, monkeypatch, number):
    monkeypatch.setattr(claims.fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError(number, "held")))
    with closing(Claims(tmp_path)) as mine, mine.claimed(0) as is_mine:
        assert not is_mine


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(MashbillError, match="cannot write a store to"):
        Claims(tmp_path / "none")
