"""Evaluation on published datasets: their files, and what each measures of a run."""
