"""What is measured, a module for each kind: functions of a run that add to its results, see `report.MEASURES`."""
