"""ElasticNet on scikit-learn's diabetes data: 442 patients, ten measurements, one score."""

import argparse

import mlflow
import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--alpha", type=float, required=True)
    parser.add_argument("--l1-ratio", type=float, required=True)
    options = parser.parse_args()

    features, target = load_diabetes(return_X_y=True, as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(features, target, random_state=0)
    with mlflow.start_run():
        model = ElasticNet(alpha=options.alpha, l1_ratio=options.l1_ratio, random_state=0)
        model.fit(train_x, train_y)
        predicted = model.predict(test_x)
        mlflow.log_params({"alpha": options.alpha, "l1_ratio": options.l1_ratio})
        mlflow.log_metrics({
            "rmse": root_mean_squared_error(test_y, predicted),
            "mae": mean_absolute_error(test_y, predicted),
            "r2": r2_score(test_y, predicted),
        })
        mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(train_x, predicted),
            input_example=train_x.head(3),
        )


if __name__ == "__main__":
    main()
