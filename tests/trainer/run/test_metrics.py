import pytest

from conform.trainer.errors import TrainError
from conform.trainer.run.metrics import Metrics, read_metrics


def written(run, steps, start=0):
    metrics = Metrics(run, start)
    for step in steps:
        metrics.write("step", step, {"loss": 1 / step})
    metrics.close()


def test_what_is_written_reads_back_exactly(tmp_path):
    written(tmp_path, [1, 2, 3])
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1.0, 1 / 2, 1 / 3]


def test_resuming_cuts_off_what_will_be_written_again(tmp_path):
    written(tmp_path, [1, 2, 3, 4, 5])
    written(tmp_path, [4, 5, 6], start=3)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    written(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"step","st')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


BAD_LINES = [
    *(
        "{",
        "[]",
        "",
        "null",
        '{"kind":"step"}',
        '{"step":1}',
        '{"kind":"step","step":"1"}',
        '{"kind":"step","step":true}',
    ),
    *('{"kind":"step","step":-1}', '{"kind":"step","step":1e3}', f'{{"kind":"step","step":1{"0" * 400}}}'),
    *('{"kind":["step"],"step":1}', "[" * 100_000, "\ud800", " " * (2 << 20)),
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_damaged_line_is_named(tmp_path, line):
    written(tmp_path, [1])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line.encode(errors="surrogatepass") + b"\n")
    with pytest.raises(TrainError, match=r"metrics\.jsonl:2"):
        list(read_metrics(tmp_path))


def test_a_disk_that_is_full_is_one_sentence_at_every_turn(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics._file = open("/dev/full", "a")  # noqa: SIM115  # closed below
    for turn in (lambda: metrics.write("step", 1, {}), metrics.close):
        with pytest.raises(TrainError, match=r"metrics\.jsonl: cannot be written: No space left"):
            turn()


def test_a_run_without_metrics_has_none(tmp_path):
    assert list(read_metrics(tmp_path)) == []


def test_tensorboard_events_are_written_when_asked(tmp_path):
    pytest.importorskip("tensorboard")
    metrics = Metrics(tmp_path, 0, tensorboard=True)
    metrics.write("step", 1, {"loss": 2.0})
    metrics.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_folder_in_place_of_the_file_is_one_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(TrainError, match=r"metrics\.jsonl: cannot be written: Is a directory$"):
        Metrics(tmp_path, 0)
