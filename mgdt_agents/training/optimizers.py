"""The paper's optimizer, and the choice of one."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

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
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters by their gradients."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Change parameters that have gradients."""
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = _laid_out_like(parameter, state[name])
        states = [self.state[parameter] for parameter in parameters]
        gradients = [_laid_out_like(p, p.grad) for p in parameters if p.grad is not None]
        # Adam's step from zero, of size 1, is the update with its sign changed.
        updates = [torch.zeros_like(parameter) for parameter in parameters]
        adam(
            updates,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=1.0,
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        if group["weight_decay"]:
            torch._foreach_sub_(updates, parameters, alpha=group["weight_decay"])
        sizes = torch.stack(torch._foreach_norm(parameters))
        update_sizes = torch.stack(torch._foreach_norm(updates))
        trusts = torch.where((sizes > 0) & (update_sizes > 0), sizes / update_sizes, 1.0)
        torch._foreach_addcmul_(parameters, updates, trusts.unbind(), group["lr"])


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor with the parameter's strides, which fused Adam takes for granted."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lamb": LAMB,
    "adamw": partial(torch.optim.AdamW, fused=True),
}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer of `model` that `config` names.

    Only matrices are decayed: norms' scales and biases do not memorize the data, and pulling them
    to zero does not help (He et al. 2019, section 3.1).
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return OPTIMIZERS[config.optimizer](groups, lr=config.learning_rate)


def complete_state(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter that had no gradient yet the state of zeros that it would begin with.

    What is trained in stages then has the same tensors in its checkpoints at every stage.
    """
    known: dict[str, Tensor] = next(iter(optimizer.state.values()), {})
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if known and not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    name: torch.zeros_like(parameter if value.ndim else value)
                    for name, value in known.items()
                }
