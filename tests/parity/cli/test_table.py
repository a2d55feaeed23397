from conform.contract.finding import Finding
from conform.parity.cli.table import print_verdict
from conform.parity.verdict import Measurement, Verdict, judged, not_run

NOTE = "29 of 29 texts compared id by id, the others by number of ids and last id"


def printed(capsys, *rungs):
    print_verdict(Verdict("model.gguf", rungs))
    return capsys.readouterr().out.splitlines()


def test_notes_stand_under_the_measurements_of_their_rung(capsys):
    tokens = judged("tokens", 9, "ids", [Measurement("texts that differ", 0, 0)], notes=[NOTE, "it is slow"])
    lines = printed(capsys, tokens, judged("greedy", 3, "tokens", [Measurement("mismatches", 0, 0)]))
    said = [line.strip() for line in lines[3:6]]
    assert said == ["- 29 of 29 texts compared id by id, the", "others by number of ids and last id", "- it is slow"]
    assert lines[2].startswith("tokens")
    assert lines[6].startswith("greedy")


def test_a_rung_that_was_not_run_shows_its_reason(capsys):
    assert "no checkpoint to compare with" in printed(capsys, not_run("weights", "no checkpoint to compare with"))[2]


def test_control_characters_of_a_note_do_not_reach_the_terminal(capsys):
    noted = judged("tokens", 9, "ids", [Measurement("texts that differ", 0, 0)], notes=["worst at \x1b[2J of [red]x"])
    assert "\x1b" not in "".join(printed(capsys, noted))


def test_of_many_findings_the_first_are_shown_and_the_rest_counted(capsys):
    findings = [Finding("error", f"place {number}", "this", "that") for number in range(10)]
    text = "\n".join(printed(capsys, judged("weights", 9, "tensors", findings=findings)))
    assert "place 7" in text
    assert "place 8" not in text
    assert "and 2 more of weights, all in --json" in text
