"""LightGBM on scikit-learn's breast cancer data, with a metric after every round."""

import argparse

import lightgbm
import mlflow
import mlflow.lightgbm
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    options = parser.parse_args()

    features, malignant = load_breast_cancer(return_X_y=True, as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(features, malignant, random_state=0)
    with mlflow.start_run():
        mlflow.log_params({"rounds": options.rounds, "learning_rate": options.learning_rate})
        losses: dict[str, dict[str, list[float]]] = {}
        model = lightgbm.train(
            {"objective": "binary", "learning_rate": options.learning_rate, "seed": 0,
             "num_threads": 2, "verbosity": -1, "deterministic": True},
            lightgbm.Dataset(train_x, train_y), num_boost_round=options.rounds,
            valid_sets=[lightgbm.Dataset(test_x, test_y)], valid_names=["test"],
            callbacks=[lightgbm.record_evaluation(losses)],
        )
        for step, loss in enumerate(losses["test"]["binary_logloss"]):
            mlflow.log_metric("log_loss", loss, step=step)
        predicted = model.predict(test_x)
        mlflow.log_metric("auc", roc_auc_score(test_y, predicted))
        mlflow.lightgbm.log_model(
            model, name="model", signature=infer_signature(train_x, predicted),
            input_example=train_x.head(3),
        )


if __name__ == "__main__":
    main()
