"""The paper's optimizer, and the choice of one."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mgdt_agents.training.config import TrainingConfig


class LAMB(torch.optim.Optimizer):
    """Adam whose step is scaled, layer by layer, to the size of the weights (You et al. 2020).

    With bias correction and without clipping, as in `optax.lamb`, which Lee et al. 2022 used.

    Args:
        params: parameters, each of them a layer.
        lr: learning rate.
        betas: decays of the averages of the gradient and of its square.
        eps: added to the square's root.
        weight_decay: share of the weights added to the update.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        """Make the optimizer of `params`."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters by their gradients."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            beta_1, beta_2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                step = state["step"].item()
                mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta_1)
                square = state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - beta_2)
                root = (square / (1 - beta_2**step)).sqrt_().add_(group["eps"])
                update = (mean / (1 - beta_1**step)).div_(root)
                update.add_(parameter, alpha=group["weight_decay"])
                sizes = parameter.norm(), update.norm()
                trust = torch.where((sizes[0] > 0) & (sizes[1] > 0), sizes[0] / sizes[1], 1.0)
                parameter.sub_(update * trust * group["lr"])
        return loss


OPTIMIZERS = {"lamb": LAMB, "adamw": torch.optim.AdamW}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of `model` that `config` names.

    Weight decay is for matrices: norms' scales and biases are no memory of the data, and pulling
    them to zero helps nothing (He et al. 2019, section 3.1).
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return OPTIMIZERS[config.optimizer](groups, lr=config.learning_rate)
