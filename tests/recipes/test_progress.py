"""Long work says where it is, where there is no terminal."""

import recstill.recipes.progress as progress_module
from recstill.recipes.progress import Progress


def test_a_line_every_half_minute_where_there_is_no_terminal(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress()
    for done, moment in enumerate((10.0, 29.0, 31.0, 40.0, 62.0), start=1):
        now[0] = moment
        progress.steps(done, 5, unit="part")
    now[0] = 100.0
    progress.steps(1_200, 4_800, 0.25)
    assert capsys.readouterr().err.splitlines() == [
        "[  31.0 s] part 3 of 5", "[  62.0 s] part 5 of 5", "[ 100.0 s] step 1,200 of 4,800, loss 0.2500",
    ]  # fmt: skip


def test_another_line_counts_as_a_sign_of_life(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress()
    now[0] = 29.0
    progress.say("epoch 1")
    now[0] = 40.0
    progress.steps(2, 5)
    assert capsys.readouterr().err.splitlines() == ["[  29.0 s] epoch 1"]
