import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from nebula_core import files


@pytest.mark.parametrize("write", [files.replace, files.create])
def test_a_file_is_written_for_its_owner_alone_and_nothing_beside_it(tmp_path, write):
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_was_there_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    files.replace(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_of_many_who_make_a_file_at_once_one_wins(tmp_path):
    contents = [f"{number}".encode() * 1000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as makers:
        list(makers.map(lambda data: files.create(tmp_path / "file", data), contents))
    winner = (tmp_path / "file").read_bytes()
    files.create(tmp_path / "file", b"late")
    assert (tmp_path / "file").read_bytes() == winner
    assert winner in contents


def test_a_file_that_cannot_be_put_there_leaves_nothing(tmp_path):
    (tmp_path / "file" / "folder").mkdir(parents=True)
    with pytest.raises(OSError, match="file"):
        files.replace(tmp_path / "file", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
