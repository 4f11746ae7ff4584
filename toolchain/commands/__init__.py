"""Commands on top of the chain: what can be done beside running stages.

A command is no stage: it leaves no receipt and is asked for by name alone. Every module has
`run(chain)`, which does it and says so in a few words.
"""
