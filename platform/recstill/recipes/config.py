"""The words of a recipe file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from recstill.api.names import NAME_RULE, is_name
from recstill.api.strategy import Schedule
from recstill.training.config import TrainingConfig

MOST_SEED = 2**31 - 1  # what every library that draws at random takes


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _checked_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text!r} cannot be a name: {NAME_RULE}")
    return text


Name = Annotated[str, AfterValidator(_checked_name)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


class ModelConfig(_Part):
    """A teacher or a student: its name in the catalog, its feature service, its options, how it is trained.

    features: a Feast service, or `none` for a task whose rows bring all features (keys and request fields).
    table_dtype: float16 rounds the tables after training, before anything is measured, and halves their bytes.
    keep_negatives: train on this share of the rows whose primary label is zero; the rate goes with the signals.
    without: features of the service or the request that it shall not see.
    label_share: train on this share of the labelled rows; a distilled student sees the rest as rows without labels.
    """

    name: str
    features: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    register_as: Name
    table_dtype: Literal["float32", "float16"] = "float32"
    keep_negatives: float = Field(1.0, gt=0, le=1)
    label_share: float = Field(1.0, gt=0, le=1)
    without: tuple[str, ...] = ()
    start_from: str = Field("", description="a registered version whose weights and transform it starts from")


class TeacherConfig(ModelConfig):
    """`version` takes a registered model (`ads-teacher@champion`) instead of training one: a teacher, an assistant or an
    earlier student. `checkpoints` names epochs whose weights teach too, easy ones first (the committee of a trajectory)."""

    version: str = ""
    checkpoints: tuple[int, ...] = ()


class ScheduleConfig(_Part):
    """A number that moves from `start` to `stop` over the first `until` of the stage."""

    start: float = Field(ge=0)
    stop: float = Field(ge=0)
    until: float = Field(1.0, gt=0, le=1)
    shape: Literal["linear", "cosine", "exponential"] = "linear"

    @model_validator(mode="after")
    def _can_be_built(self) -> ScheduleConfig:
        self.schedule()
        return self

    def schedule(self) -> Schedule:
        return Schedule(self.start, self.stop, self.until, self.shape)


def _kind_of_weight(value: object) -> str:
    return "kind:schedule" if isinstance(value, (dict, ScheduleConfig)) else "kind:number"


Weight = Annotated[
    Annotated[float, Field(ge=0), Tag("kind:number")] | Annotated[ScheduleConfig, Tag("kind:schedule")],
    Discriminator(_kind_of_weight),
]


class StrategyConfig(_Part):
    """One distillation loss and its weight beside the label loss; an option may be a schedule too."""

    name: str
    weight: Weight = 1.0
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def weight_value(self) -> float | Schedule:
        """The weight as losses read it."""
        return self.weight.schedule() if isinstance(self.weight, ScheduleConfig) else self.weight


class ListsConfig(_Part):
    """The lists of a retrieval task: `top` items of the teacher and `random` ones for each of `queries` queries a step."""

    top: int = Field(100, ge=1)
    random: int = Field(200, ge=0)
    queries: int = Field(128, ge=1)


class MixedConfig(_Part):
    """Rows for the teachers alone: `copies` of each training row, each of whose values is another training row's with
    probability `share`. They show a student more of what its teacher knows than the rows that both have seen."""

    copies: float = Field(1.0, gt=0, le=20)
    share: float = Field(0.2, gt=0, le=1)
    seed: Seed = 0


class DistilConfig(_Part):
    """The distil stage, and an optional fine-tune stage on labels alone that follows it.

    live: ask the teacher at every step instead of the signal store (needed for attention maps). label_weight: the weight of
    the label loss; below 1 the teacher speaks louder. unlabelled: rows of the split `unlabelled` join the training rows.
    mixed: so do rows that are mixed from training rows.
    replay: rows of the split `replay`, older ones with their labels, join the student's training rows, alone and distilled.
    min_coverage, max_age_days: refuse signals that cover fewer training rows, or were scored longer ago. freeze: modules of
    the student that only this stage leaves alone.
    """

    strategies: tuple[StrategyConfig, ...] = Field(min_length=1)
    label_weight: float = Field(1.0, ge=0)
    live: bool = False
    unlabelled: bool = False
    mixed: MixedConfig | None = None
    replay: bool = False
    lists: ListsConfig = Field(default_factory=ListsConfig)
    min_coverage: float = Field(0.5, ge=0, le=1)
    max_age_days: float | None = Field(None, gt=0)
    freeze: tuple[str, ...] = ()
    fine_tune: TrainingConfig | None = None


class PruneConfig(_Part):
    """A stage after distilling: remove this share of the hidden units, and train on with the same strategies to recover."""

    share: float = Field(gt=0, lt=1)
    recovery: TrainingConfig = Field(default_factory=TrainingConfig)


class QuantiseConfig(_Part):
    """A stage after distilling and pruning: train on with the same strategies and weights rounded to eight bits, which the
    exported tables keep."""

    recovery: TrainingConfig = Field(default_factory=TrainingConfig)


class RuleConfig(_Part):
    """A rule of the trade: rows for which the SQL condition `when` on the snapshot's columns holds get `score` added to the
    attribute `rule`. Above 0 argues for the positive answer, below 0 against it."""

    when: str
    score: float


def _kind_of_rules(value: object) -> str:
    return "kind:file" if isinstance(value, str) else "kind:list"


Rules = Annotated[
    Annotated[tuple[RuleConfig, ...], Tag("kind:list")] | Annotated[str, Tag("kind:file")], Discriminator(_kind_of_rules)
]


class Recipe(_Part):
    """One pipeline: pretrain a teacher, score it, distil students, compare, export, register.

    teachers: further members of a committee, beside `teacher`; their features must be among the first one's.
    """

    task: str
    description: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    teacher: TeacherConfig
    teachers: tuple[TeacherConfig, ...] = ()
    student: ModelConfig
    distil: DistilConfig
    prune: PruneConfig | None = None
    quantise: QuantiseConfig | None = None
    rules: Rules = Field((), description="rules for `posterior-regularisation`, or a YAML file of them")
    baselines: tuple[str, ...] = ()
    gates: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="bounds of gates, such as {size: {min_ratio: 4}}, beside and over the task's"
    )
    threads: int = Field(1, ge=1, le=1024, description="torch threads; more than one makes runs irreproducible to the last bit")

    @model_validator(mode="after")
    def _nothing_twice(self) -> Recipe:
        if repeated := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            text = ", ".join(map(str, repeated))
            raise ValueError(f"seeds: {text} comes more than once; two runs of one seed are one run, and show no spread")
        names = [part.register_as for part in self.all_teachers.values() if not part.version] + [self.student.register_as]
        if repeated_names := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"register_as: {', '.join(repeated_names)} names more than one model of this recipe")
        return self

    @property
    def student_stages(self) -> tuple[str, ...]:
        """The stages that a student goes through, the last of which is exported: `distilled`, `pruned`, `quantised`."""
        pruned = ("pruned",) if self.prune is not None else ()
        return ("distilled", *pruned, *(("quantised",) if self.quantise is not None else ()))

    @property
    def all_teachers(self) -> dict[str, TeacherConfig]:
        """The teachers by their role in the run: `teacher`, `teacher-2` …"""
        return {"teacher": self.teacher} | {f"teacher-{n}": part for n, part in enumerate(self.teachers, 2)}

    def part(self, role: str) -> ModelConfig:
        """Return the configuration of a role."""
        return self.student if role == "student" else self.all_teachers[role]
