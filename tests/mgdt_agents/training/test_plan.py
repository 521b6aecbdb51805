"""What a training takes, against what is known."""

import dataclasses
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mgdt_agents import make_agent
from mgdt_agents.decision_transformer import DecisionTransformerAgent
from mgdt_agents.planning import TrajectoryTransformerAgent
from mgdt_agents.q_learning.cql import CQLAgent
from mgdt_agents.training import TrainingConfig
from mgdt_agents.training.plan import cost_of, empty_batch, peak_flops, seconds_of_steps, stages_of
from mgdt_agents.training.windows import open_replay

CONFIG = TrainingConfig(steps=1)


@pytest.mark.parametrize(("kind", "target"), [("dt", 0), ("cql", 1), ("tt", 1)])
def test_parameters_and_state(kind, target):
    agent = make_agent(kind, "tiny", device="cpu")
    cost = cost_of(type(agent), agent.config, CONFIG)
    assert cost.parameters == sum(parameter.numel() for parameter in agent.model.parameters())
    # The target network has a weight more for each that it copies.
    copied = target and sum(parameter.numel() for parameter in agent.target.parameters())
    assert 0 <= copied <= cost.parameters
    assert cost.state_bytes == 16 * cost.parameters + 4 * copied
    averaged = dataclasses.replace(CONFIG, average_decay=0.9)
    more = cost_of(type(agent), agent.config, averaged).state_bytes - cost.state_bytes
    assert more == 4 * cost.parameters


@pytest.mark.parametrize(("size", "tolerance"), [("10m", 0.35), ("40m", 0.2)])
def test_operations_are_about_six_a_parameter_and_token(size, tolerance):
    # Kaplan et al. 2020, section 2.1; 156 tokens a window, without attention's products.
    network = DecisionTransformerAgent.presets[size]
    cost = cost_of(DecisionTransformerAgent, network, CONFIG)
    assert cost.flop == pytest.approx(6 * cost.parameters * 156, rel=tolerance)


def test_operations_and_memory_grow_with_the_network():
    networks = [dataclasses.replace(CQLAgent.presets["small"], blocks=n) for n in (1, 2, 3)]
    costs = [cost_of(CQLAgent, network, CONFIG) for network in networks]
    for name in ("flop", "window_bytes"):
        first, second, third = (getattr(cost, name) for cost in costs)
        assert third - second == second - first > 0


@pytest.mark.parametrize("kind", ["dt", "cql"])
def test_memory_of_a_window_is_what_one_more_takes(kind):
    agent = make_agent(kind, "tiny", device="cpu")
    weights = {
        parameter.untyped_storage().data_ptr()
        for module in agent.training_modules().values()
        for parameter in module.parameters()
    }
    taken = []
    for rows in (2, 6):
        saved = {}

        def keep(tensor, saved=saved):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = empty_batch(agent)
        batch = type(batch)(*(None if it is None else it.repeat(rows, 0) for it in batch))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = agent.loss(batch)
        del loss
        taken.append(sum(saved.values()))
    slope = (taken[1] - taken[0]) / 4
    cost = cost_of(type(agent), agent.config, CONFIG)
    assert cost.window_bytes == pytest.approx(slope, rel=0.2)


def test_stages():
    agent = make_agent("tt", "tiny", device="cpu")  # its tokenizer learns for 2 steps
    for steps, expected in [(1, {0: 1}), (2, {0: 2}), (5, {0: 2, 2: 3})]:
        assert stages_of(agent, TrainingConfig(steps=steps)) == expected
    without = dataclasses.replace(agent.config, tokenizer_steps=0)
    assert stages_of(make_agent("tt", without, device="cpu"), TrainingConfig(steps=5)) == {0: 5}
    assert stages_of(make_agent("dt", "tiny", device="cpu"), TrainingConfig(steps=5)) == {0: 5}


def test_operations_are_those_of_the_stage():
    with torch.device("meta"):
        agent = TrajectoryTransformerAgent("tiny", device="meta")
    agent.model.train()
    begin = agent.config.tokenizer_steps
    for step, learns_tokenizer in [(0, True), (begin - 1, True), (begin, False)]:
        agent.learns_tokenizer = learns_tokenizer
        with FlopCounterMode(display=False) as counter:
            agent.loss(empty_batch(agent))[0].backward()
        assert (
            cost_of(TrajectoryTransformerAgent, agent.config, CONFIG, step).flop
            == counter.get_total_flops()
        )


def test_seconds_of_steps(readable_store):
    config = dataclasses.replace(CONFIG, replay=(readable_store,), batch_size=4)
    for kind, steps, stages in [("dt", 3, 1), ("tt", 3, 2)]:
        agent = make_agent(kind, "tiny", device="cpu")
        sampler = open_replay(agent, config)
        seconds = seconds_of_steps(agent, dataclasses.replace(config, steps=steps), sampler)
        assert len(seconds) == stages
        assert all(0 < second < 60 for second in seconds)


def test_peak_is_what_a_product_of_matrices_reaches():
    matrix = torch.ones(1024, 1024)
    with FlopCounterMode(display=False) as counter:
        torch.mm(matrix, matrix)
    started = time.perf_counter()
    peak = peak_flops(torch.device("cpu"), torch.float32)
    # Six such products were computed, one of them to warm up, in less time than has passed.
    assert peak >= 5 * counter.get_total_flops() / (time.perf_counter() - started)
