"""`python -IS /opt/toolchain`: the entry point of every image."""

import os
import sys

from toolchain.runner.plain import become, is_own

if len(sys.argv) > 1 and not is_own(sys.argv[1]):
    sys.exit(become(sys.argv[1:]))

from toolchain.runner.main import main

sys.exit(main(sys.argv[1:], os.environ))
