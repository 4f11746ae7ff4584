"""What an image starts with: run an entry point of the project, log the run, name its artifact.

Rule 1: these files are in every image (toolchain.layer.runner). Standard library only, Python 3.9
or newer, and quick to import: the entry point waits for it.
Rule 2: this is process 1 of the container. It imports no mlflow, starts no thread and waits for
nothing but signals and its children; a process of its own (`tracker`) talks to MLflow.
Rule 3: nothing that may be a secret is printed: of variables only names, and no address whole.
"""
