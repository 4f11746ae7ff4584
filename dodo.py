from toolchain.tasks import *  # noqa: F403
