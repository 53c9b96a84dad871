"""The gate: examines each candidate version, accepts or refuses it, promotes, rolls back, and keeps the audit.

The way of a candidate through the files:

    worker        one record: plan, examination, verdict, outcome
    anchors       which questions it is examined on
    examination   what each version answers to them
    evidence      those answers beside each other
    committee     what frozen peers make of its answers (eq. 8)
    statistics    exact and score tests for paired answers
    verdict       figures in, verdict and reason out
    promotion     what a verdict changes in the ledger, and rollback
    registry      states of versions, the pinned best, and who taught what
    app, console  the same to read, over HTTP
"""
