"""Pages are kept in version control, so the same results must make the same file."""

import subprocess
import sys


def test_another_process_draws_the_same_bytes():
    code = "from recstill.evaluation.plots import bars_with_spread as b\nprint(b({'a': (0.8, 0.0), 'b': (0.7, 0.01)}, 'auc'))"
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2))
    assert first.startswith(b"<svg")
    assert first == second
