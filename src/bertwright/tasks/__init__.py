"""What a model is trained for, one file a task, and the classical systems that it is compared with."""
