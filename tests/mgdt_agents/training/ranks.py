"""Train in each process that torchrun starts: `torchrun ... ranks.py SCRIPT.json`.

The file holds a list of [kind, network, training, output]: fields of the network's and the
training's configurations. Kind "lamb" is 200 steps of the optimizer, whose weights are saved.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.training import LAMB, TrainingConfig, parallel, train


def take_lamb_steps(output: Path) -> None:
    """Take 200 steps with gradients that depend on weights and step, and save the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    parallel.spread(model, fsdp=True, trained=True)
    optimizer = LAMB(model.parameters(), lr=0.02, weight_decay=0.1)
    for step in range(200):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
    weights = {name: parallel.whole(tensor) for name, tensor in model.state_dict().items()}
    if parallel.rank() == 0:
        save_file(weights, output)


def main() -> None:
    """Train what the file says, and part."""
    device = parallel.join("cpu")
    torch.set_num_threads(1)
    for kind, network, training, output in json.loads(Path(sys.argv[1]).read_text()):
        if kind == "lamb":
            take_lamb_steps(Path(output))
            continue
        torch.manual_seed(0)
        agent_class = NETWORK_AGENTS[kind]
        config = dataclasses.replace(agent_class.presets["tiny"], **network)
        agent = agent_class(config, device=device)
        train(agent, TrainingConfig(**training), output=Path(output))
    parallel.leave()


if __name__ == "__main__":
    main()
