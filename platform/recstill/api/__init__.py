"""What a plugin author reads and imports. Nothing here imports a heavy library."""

from recstill.api.baseline import Baseline, BaselineData
from recstill.api.batch import JOINT, Batch, Output, Signals
from recstill.api.columns import ColumnInputs, ColumnPredictor, ColumnRows, ColumnTeacher
from recstill.api.errors import (
    BundleError,
    ConfigError,
    DataError,
    DivergedError,
    FeatureError,
    GateError,
    IntegrityError,
    PluginError,
    RecstillError,
    RegistryError,
    RequestError,
    RowsError,
    UnknownNameError,
)
from recstill.api.gates import Candidate, Gate, GateResult
from recstill.api.hookspecs import hookimpl
from recstill.api.models import Model, ModelInputs, Prunable, Slot
from recstill.api.strategy import DistillationLoss, Schedule, Strategy, StrategyContext, StudentForward, value_at
from recstill.api.task import (
    ContextSpec,
    Dataset,
    DecisionSpec,
    EndpointSpec,
    FeatureSpec,
    LabelSpec,
    RetrievalSpec,
    Task,
    TaskSpec,
)

__all__ = [
    "JOINT",
    "Baseline",
    "BaselineData",
    "Batch",
    "BundleError",
    "Candidate",
    "ColumnInputs",
    "ColumnPredictor",
    "ColumnRows",
    "ColumnTeacher",
    "ConfigError",
    "ContextSpec",
    "DataError",
    "Dataset",
    "DecisionSpec",
    "DistillationLoss",
    "DivergedError",
    "EndpointSpec",
    "FeatureError",
    "FeatureSpec",
    "Gate",
    "GateError",
    "GateResult",
    "IntegrityError",
    "LabelSpec",
    "Model",
    "ModelInputs",
    "Output",
    "PluginError",
    "Prunable",
    "RecstillError",
    "RegistryError",
    "RequestError",
    "RetrievalSpec",
    "RowsError",
    "Schedule",
    "Signals",
    "Slot",
    "Strategy",
    "StrategyContext",
    "StudentForward",
    "Task",
    "TaskSpec",
    "UnknownNameError",
    "hookimpl",
    "value_at",
]
