"""Several optimizers as one, for trainers, schedulers and checkpoints that expect a single one."""

import torch


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different kinds, each with parameters of its own.

    ``param_groups`` holds the optimizers' own groups in order, not copies, so a learning-rate
    scheduler or gradient scaler that changes them changes the optimizers. Only the optimizers keep
    state, and ``state_dict`` collects it.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        """
        Args:
            optimizers: the optimizers, at least one.

        Raises:
            ValueError: there is no optimizer, or a parameter belongs to two of them.
        """
        # Optimizer.__init__ rejects duplicate parameters, and keeps the dicts of the groups.
        super().__init__([group for o in optimizers for group in o.param_groups], defaults={})
        self.optimizers = list(optimizers)

    def step(self, closure=None):
        """Take one step with every optimizer.

        Args:
            closure: recomputes the loss and its gradients; called once.

        Returns:
            The closure's result, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict:
        """Return {"optimizers": list of their state dicts}."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state that :meth:`state_dict` returned.

        Raises:
            ValueError: the state belongs to optimizers of another kind or number.
        """
        states = state_dict.get("optimizers", ())
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"the checkpoint has the state of {len(states)} combined optimizers, not of "
                f"{len(self.optimizers)}: was it trained with another SOLVER.OPTIMIZER?"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        # Loading replaces an optimizer's groups.
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "optimizers": self.optimizers}
