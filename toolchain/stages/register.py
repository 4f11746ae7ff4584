"""Run -> ModelVersion."""

from __future__ import annotations

from typing import Any

from toolchain import model
from toolchain.chain import Chain, Made
from toolchain.stages import train

NAME = "register"


def plan(chain: Chain) -> Any:
    return {
        "version": model.plan(train.result(chain), _model_name(chain), chain.config.alias),
        "tracking": chain.session.tools.tracking_identity(chain.config),
    }


def stands(chain: Chain, value: Any) -> bool:
    return chain.session.tools.tracking(chain.config).has_version(
        value["name"], value["version"], value["alias"])


def make(chain: Chain) -> Made:
    with chain.session.progress(f"{NAME} {chain.name}"):
        return _make(chain)


def _make(chain: Chain) -> Made:
    run = train.result(chain)
    tracking = chain.session.tools.tracking(chain.config)
    # The run's own: one that is reused may have been made from another push of the same image.
    lineage = {"toolchain.run": run.run_id, **tracking.lineage_of(run.run_id)}
    done = model.make(run, _model_name(chain), chain.config.alias, lineage, tracking)
    return Made(value=done.to_json(),
                words=f"{done.name} version {done.version}, alias {done.alias}")


def _model_name(chain: Chain) -> str:
    return chain.config.model_name or chain.name
