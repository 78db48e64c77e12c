"""A training run that kills itself with SIGKILL before a given step. Arguments: checkpoint folder, step."""

import os
import signal
import sys
from pathlib import Path

from tests.language_model.test_training import ARCHITECTURE, TRAINING, fixed_rows
from tests.language_model.toy import ToyBatches, one_thread, toy_model
from yunmin_assets.language_model import train


class KillingBatches(ToyBatches):
    def __iter__(self):
        for batch in super().__iter__():
            if self.position > int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


if __name__ == "__main__":
    with one_thread():
        train(toy_model(ARCHITECTURE), KillingBatches(fixed_rows()), TRAINING, Path(sys.argv[1]))
