"""A trial that Ray begins again -> its MLflow run says so, before it begins.

MLflow takes nothing back that a run has logged, so what the lost attempt logged stays. The tags
tell which points of a metric are of the attempt that counts.
"""

from __future__ import annotations

import time

from toolchain.errors import without_credentials
from toolchain.run import Job

ATTEMPTS_TAG = "toolchain.attempts"
BEGAN_TAG = "toolchain.attempt.began"  # in ms since 1970, as MLflow's points have it
LOST_TAG = "toolchain.attempt.lost"  # the node of the attempt before


def again(job: Job, number: int, node: str) -> None:
    """Tag the job's run with an attempt's number; a store that refuses does not stop the job."""
    run_id = job.environment.get("MLFLOW_RUN_ID", "")
    if not run_id:
        return
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=job.environment.get("MLFLOW_TRACKING_URI"))
    try:
        for name, value in ((ATTEMPTS_TAG, str(number)), (LOST_TAG, node),
                            (BEGAN_TAG, str(int(time.time() * 1000)))):
            client.set_tag(run_id, name, value)
    except MlflowException as error:
        print(f"warning: {job.name}: the run does not say that it was begun again: "
              f"{without_credentials(str(error))}", flush=True)
