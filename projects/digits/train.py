"""A support vector classifier on scikit-learn's digits: 1,797 images of 8 x 8 pixels."""

import argparse

import mlflow
import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gamma", type=float, required=True)
    parser.add_argument("--c", type=float, required=True)
    options = parser.parse_args()

    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images, digits, random_state=0)
    with mlflow.start_run():
        model = SVC(gamma=options.gamma, C=options.c, random_state=0).fit(train_x, train_y)
        predicted = model.predict(test_x)
        mlflow.log_params({"gamma": options.gamma, "c": options.c})
        mlflow.log_metrics({
            "accuracy": accuracy_score(test_y, predicted),
            "f1_macro": f1_score(test_y, predicted, average="macro"),
        })
        mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(train_x, predicted),
            input_example=train_x[:3],
        )


if __name__ == "__main__":
    main()
