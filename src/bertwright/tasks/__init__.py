"""The tasks, one file each; how a model is trained for them; and the classical baselines."""
