"""River's logistic regression with FTRL over c500k: a dictionary a sample, predicted first and learned after."""

import time

from measure import Case, LogLoss, Outcome, main, path, read_ffm

PACKAGES = ["river==0.26.1"]


def learn(data):
    from river import linear_model, optim

    def samples(name):
        labels, ids = read_ffm(path(data, name))
        return labels, [dict.fromkeys(row, 1.0) for row in ids.tolist()]

    began = time.perf_counter()
    labels, rows = samples("c500k.train.ffm")
    model = linear_model.LogisticRegression(optimizer=optim.FTRLProximal(alpha=0.1, beta=1.0, l1=0.0, l2=0.0))
    predicted = []
    for row, label in zip(rows, labels.tolist()):
        predicted.append(model.predict_proba_one(row)[True])
        model.learn_one(row, label > 0)
    progressive = LogLoss().add(labels, predicted)
    seconds = time.perf_counter() - began
    test_labels, test_rows = samples("c500k.test.ffm")
    test = LogLoss().add(test_labels, [model.predict_proba_one(row)[True] for row in test_rows])
    return Outcome(len(labels), seconds, progressive.mean(), test.mean())


CASES = {"river": Case("lr500k", "River {version}, FTRL", learn)}

if __name__ == "__main__":
    main(PACKAGES, CASES)
