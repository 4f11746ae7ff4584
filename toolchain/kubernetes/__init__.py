"""Job -> a Kubernetes Job: settings and template in, manifest out; a cluster's words in plain ones.

Pure: nothing here opens a file or speaks to a cluster. MLflow's backend config and its job template
are read as they are.
"""

MANAGED = "app.kubernetes.io/managed-by"
MANAGER = "mlproject-toolchain"
KEY = "toolchain/key"  # a label with as much of the training key as fits; the annotation has all
RUN = "toolchain/run"  # the MLflow run that the Job logs to
