"""One module for each outside thing. Only toolchain.tasks imports these."""
