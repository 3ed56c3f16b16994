"""`python -m task_arithmetic` is the command `task-arithmetic`."""

from task_arithmetic.cli import main

main()
