"""Commands on top of the chain: what can be done beside running stages.

A command is no stage: it leaves no receipt and is asked for by name alone. `load`,
`export`, `prune` and `sweep` have a `run`, which does it; `best` finds what a sweep came to.
`pushed` is what load and export share, `contest` one project's sweep, `entry` whether it fits.
"""
