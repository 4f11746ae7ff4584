"""Steps of a workflow engine, such as Tekton's: inputs from the environment, results in files."""
