"""Work side by side on threads."""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Callable

from pyspark.sql import SparkSession

REQUESTS = 32  # at once: on S3 more are no faster


def in_parallel(action: Callable[[Any], Any], items: Iterable) -> list[Any]:
    """The results of action(item) for each item, on threads, so that Spark jobs overlap; the first error is raised."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        futures = [pool.submit(action, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException as error:
            for future in futures:
                future.cancel()
            while isinstance(error, KeyboardInterrupt) and wait(futures, 0.5).not_done:
                with contextlib.suppress(Exception):  # there is no session, or Java was told to end as well
                    SparkSession.getActiveSession().sparkContext.cancelAllJobs()
            raise
