"""The conformance kit: what every teacher, student and strategy must hold, for use in a plugin's own tests.

from recstill.testing import assert_passed, check_student
def test_my_student_conforms(): assert_passed(check_student(MyStudent))
"""

from recstill.testing.columns import check_column_teacher
from recstill.testing.models import check_student, check_teacher
from recstill.testing.results import Check, assert_passed
from recstill.testing.strategies import check_strategy

__all__ = ["Check", "assert_passed", "check_column_teacher", "check_strategy", "check_student", "check_teacher"]
