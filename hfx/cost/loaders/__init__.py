"""Public profile formats as steps: AIConfigurator, LLMServingSim, vidur and Splitwise tables.

Each module reads one publisher's CSV files, gzip or plain, and returns (mix, seconds) pairs for
`hfx.cost.fit`, or the parts that `compose` puts together. Sources and licences: `presets`.
"""
