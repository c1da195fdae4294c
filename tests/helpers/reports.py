"""Change reports of evaluations for tests."""

from copy import deepcopy


def changed(report: dict, changes: dict) -> dict:
    """Return a copy of a report with other values, named by their path: {"free_runs.generated.auc": 0.5}."""
    report = deepcopy(report)
    for path, value in changes.items():
        *parents, key = path.split(".")
        part = report
        for name in parents:
            part = part[name]
        part[key] = value
    return report
