"""Several optimisers as one, for trainers, schedulers and checkpoints that know a single one."""

import torch


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimisers of different kinds, each for parameters of its own.

    ``param_groups`` are the optimisers' own groups in their order, not copies: a learning-rate
    scheduler or gradient scaler that changes them changes the optimisers. State is kept by the
    optimisers alone; ``state_dict`` holds theirs.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        """
        Args:
            optimizers: at least one.

        Raises:
            ValueError: no optimiser, or a parameter that belongs to two.
        """
        # Optimizer.__init__ refuses parameters that are there twice, and keeps the groups' dicts.
        super().__init__([group for o in optimizers for group in o.param_groups], defaults={})
        self.optimizers = list(optimizers)

    def step(self, closure=None):
        """A step of every optimiser.

        Args:
            closure: computes the loss anew, with gradients; called once.

        Returns:
            What it returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict:
        """{"optimizers": their state dicts}."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`state_dict` gave.

        Raises:
            ValueError: the state of another kind or number of optimisers.
        """
        states = state_dict.get("optimizers", ())
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"the checkpoint has the state of {len(states)} combined optimizers, not of "
                f"{len(self.optimizers)}: was it trained with another SOLVER.OPTIMIZER?"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        # Loading gives an optimiser new groups.
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "optimizers": self.optimizers}
