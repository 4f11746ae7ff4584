"""Random inputs for what reads other people's text: only ToolchainErrors may come out."""
