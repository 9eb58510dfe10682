"""What is measured, a module for each kind; each has `measure(run)`, which adds to the run's results."""
