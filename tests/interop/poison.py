"""Handlers that do as the job's data says with a value that no JSON text could carry to them: it comes pickled."""

import base64
import os
import pickle
import sys
import zlib

from sandq import handler
from sandq.protocol import Kind


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("\ud800")


def value_of(job):
    return pickle.loads(zlib.decompress(base64.b64decode(job.data["value"])))


@handler("returns")
def returns(job):
    return value_of(job)


@handler("raises")
def raises(job):
    raise RuntimeError(value_of(job))


@handler("raises-unprintable")
def raises_unprintable(job):
    raise UnprintableError(value_of(job))


@handler("reports")
def reports(job):
    job.progress(value_of(job))


@handler("logs")
def logs(job):
    job.log(value_of(job))


@handler("prints")
def prints(job):
    value = value_of(job)
    os.write(1, value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass"))
    sys.exit("and fails, so that its output is kept")


@handler("replaces")
def replaces(job):
    job.update_data(value_of(job))


@handler("adds")
def adds(job):
    return job.add("echo", {"return": value_of(job)})


# Behind the back of the code that would have refused it.
@handler("forges-progress")
def forges_progress(job):
    job._send(Kind.PROGRESS, {}, value_of(job))


@handler("forges-data")
def forges_data(job):
    job._send(Kind.DATA, {}, value_of(job))


@handler("forges-result")
def forges_result(job):
    job._send(Kind.DONE, {}, value_of(job))
    os._exit(0)


@handler("echo")
def echo(job):
    return job.data["return"]
