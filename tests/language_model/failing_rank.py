"""One of two processes of `test_processes`: speaks, waits for the other, and fails as its argument's name says."""

import os
import signal
import sys
from pathlib import Path

failure = Path(sys.argv[1]).name
if failure == "cannot import":
    raise ImportError("no module named something")

from yunmin_assets.language_model.processes import talk_to_parent  # noqa: E402
from yunmin_assets.language_model.ranks import join_ranks  # noqa: E402

if __name__ == "__main__":
    with talk_to_parent() as parent:
        if failure == "exits":
            sys.exit("nothing to do")
        ranks = join_ranks("cpu")
        import torch

        if ranks.is_first:
            parent.log("들립니까")
            sys.stdout.buffer.write(b"noise \xff of a library\n")
            parent.report({"step": 3})
        ranks.sum(torch.ones(1))
        if ranks.is_first:
            ranks.sum(torch.ones(1))
        elif failure == "raises":
            raise ValueError("the rows are broken")
        else:
            os.kill(os.getpid(), signal.SIGKILL)
