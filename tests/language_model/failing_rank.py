"""One of two processes of `test_processes`: speaks, and fails as its argument's name says."""

import os
import signal
import sys
import time
from pathlib import Path

from yunmin_assets.language_model.processes import talk_to_parent

SECONDS_UNTIL_THE_LAUNCHER_ENDS_IT = 60

if __name__ == "__main__":
    with talk_to_parent() as parent:
        if os.environ["RANK"] == "0":
            parent.log("들립니까")
            print("noise of a library")
            parent.report({"step": 3})
            time.sleep(SECONDS_UNTIL_THE_LAUNCHER_ENDS_IT)
        elif Path(sys.argv[1]).name == "raises":
            raise ValueError("the rows are broken")
        else:
            os.kill(os.getpid(), signal.SIGKILL)
