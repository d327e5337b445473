"""PyTorch on the processor: embedding 8 of 39 slots, then layers of 128 and 64, mini-batches of 256, over c500k."""

import time

from measure import FFM_BITS, SLOTS, Case, LogLoss, Outcome, main, path, read_ffm

# The registry's build brings CUDA's libraries along: 5.6 GB on disk, none of them used.
PACKAGES = ["torch==2.15.0", "numpy==2.4.6"]

MINI_BATCH = 256


def learn(data):
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(7)
    table = nn.Embedding(1 << FFM_BITS, 8, sparse=True)
    nn.init.normal_(table.weight, std=0.01)
    hidden = [nn.Linear(SLOTS * 8, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
    layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 1))
    loss_of = nn.BCEWithLogitsLoss()
    # Adagrad touches only the entries of the mini-batch; Adam would walk through the whole table at each step.
    optimizers = [torch.optim.Adagrad(part.parameters(), lr=0.02) for part in (table, layers)]

    began = time.perf_counter()
    labels, ids = map(torch.from_numpy, read_ffm(path(data, "c500k.train.ffm")))
    total = 0.0
    for truth, keys in zip(labels.split(MINI_BATCH), ids.split(MINI_BATCH)):
        loss = loss_of(layers(table(keys)).squeeze(1), truth)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        total += loss.item() * len(truth)
    seconds = time.perf_counter() - began
    test_labels, test_ids = read_ffm(path(data, "c500k.test.ffm"))
    with torch.no_grad():
        parts = [layers(table(keys)).squeeze(1).sigmoid() for keys in torch.from_numpy(test_ids).split(8192)]
    test = LogLoss().add(test_labels, torch.cat(parts).numpy())
    return Outcome(len(labels), seconds, total / len(labels), test.mean())


CASES = {"torch": Case("mlp", "PyTorch {version}", learn)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
