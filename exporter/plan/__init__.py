"""Family, profiles and shapes become a list of jobs. No tensor is read; what does not fit is refused."""

from exporter.plan.build import Wishes, build, check_weights
from exporter.plan.values import Fallback, Job, Output, Plan, ProjectorPlan, Steps, Value, Written, row_bytes

__all__ = [
    "Fallback",
    "Job",
    "Output",
    "Plan",
    "ProjectorPlan",
    "Steps",
    "Value",
    "Wishes",
    "Written",
    "build",
    "check_weights",
    "row_bytes",
]
