"""The config of a run inside its checkpoints, so that the weights alone are enough to use them."""

from typing import Any

from detectron2.config import CfgNode


class StoredConfig:
    """What a checkpointer stores under "config": the text of a YAML file."""

    def __init__(self, cfg: CfgNode):
        self.text = cfg.dump()

    def state_dict(self) -> str:
        """The text."""
        return self.text

    def load_state_dict(self, state: Any) -> None:
        """Do nothing: a run that goes on has the config that it was started with."""
