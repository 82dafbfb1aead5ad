"""The conformance kit: what everything that a plugin offers must hold, for use in a plugin's own tests.

from recstill.testing import assert_passed, check_student
def test_my_student_conforms(): assert_passed(check_student(MyStudent))
"""

from recstill.testing.baselines import check_baseline
from recstill.testing.columns import check_column_teacher
from recstill.testing.gates import check_gate
from recstill.testing.models import check_student, check_teacher
from recstill.testing.results import Check, assert_passed
from recstill.testing.strategies import check_strategy
from recstill.testing.tasks import check_dataset, check_task

__all__ = [
    "Check",
    "assert_passed",
    "check_baseline",
    "check_column_teacher",
    "check_dataset",
    "check_gate",
    "check_strategy",
    "check_student",
    "check_task",
    "check_teacher",
]
