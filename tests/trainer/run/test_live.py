from conform.trainer.run.live import LiveView, PlainView, view_for_terminal

STEP = {"loss": 2.5, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_second": 12345.6, "mfu": 0.5}
HELD_OUT = {"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 1.25, "unigram_perplexity": 500.0}


def test_piped_output_is_plain_lines(capsys):
    view = view_for_terminal(2)
    assert isinstance(view, PlainView)
    view.begin("nano", 0, 4)
    for step in (1, 2, 3, 4):
        view.step(step, STEP)
    view.held_out(4, HELD_OUT)
    view.note("[brackets] stay")
    view.end()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "nano",
        "step 1/4",
        "step 2/4",
        "step 4/4",
        "held out at step 4: loss 2.0000",
        "[brackets] stay",
    ]
    assert "12,346 tokens/s" in lines[1]
    assert "token frequencies alone: 500.00" in lines[4]


def test_a_terminal_sees_the_present_values(capsys):
    view = LiveView()
    view.begin("nano", 0, 4)
    view.step(1, STEP)
    view.held_out(1, HELD_OUT)
    view.end()
    shown = capsys.readouterr().err
    assert "2.5000" in shown
    assert "perplexity 7.39" in shown
