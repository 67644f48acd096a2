"""What holds for all tests: passes over captured programs are checked, in processes that tests start as well."""

import os

os.environ["TAPEGRAD_CHECK_PASSES"] = "1"
