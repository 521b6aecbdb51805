"""Train in each process that torchrun starts: `torchrun ... ranks.py SCRIPT.json`.

The file holds a list of [kind, network, training, output]: fields of the network's and the
training's configurations.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from mgdt_agents.registry import NETWORK_AGENTS
from mgdt_agents.training import TrainingConfig, parallel, train


def main() -> None:
    device = parallel.join("cpu")
    torch.set_num_threads(1)
    for kind, network, training, output in json.loads(Path(sys.argv[1]).read_text()):
        torch.manual_seed(0)
        agent_class = NETWORK_AGENTS[kind]
        config = dataclasses.replace(agent_class.presets["tiny"], **network)
        agent = agent_class(config, device=device)
        train(agent, TrainingConfig(**training), output=Path(output))
    parallel.leave()


if __name__ == "__main__":
    main()
