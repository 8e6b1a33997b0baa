"""The bench suite. `scenarios` says what is measured, `measure` runs one relay once, `results` keeps and sums up,
`plots` draws.
"""
