"""What the job in etl.py stands on: one subject a module. Nothing here imports etl.

Executors need no installed copy: source.Input registers this package with cloudpickle, so that what a task calls is
sent along with the task. A cluster whose driver runs elsewhere gets it as --py-files sparkify.zip.
"""
