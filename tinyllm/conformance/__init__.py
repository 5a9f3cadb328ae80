"""The conformance kit: proves a backend, ours or yours, op by op, against the specs' float64 references.

`tinyllm check BACKEND` runs it from the command line, `pytest --pyargs tinyllm.conformance --tinyllm-backend BACKEND`
under pytest; both collect the same checks (`collect`) and run them in the same way (`run`).
"""
