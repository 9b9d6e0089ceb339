"""What a job is doing while it does it: a bar on a terminal, and where there is none a line now and then.

Whatever can take more than a few seconds runs inside `task` or is iterated over by `each`. Nothing is shown outside
`shown`, which the main process of a job enters, and `HindsightTrainer` for what it does before its first step: other
code used without a job prints nothing. It is a package of the lowest layer, because models are loaded and servers
called in low layers too.
"""

from sdpo.progress.display import shown
from sdpo.progress.tasks import Task, each, task

__all__ = ["Task", "each", "shown", "task"]
