"""The examples and the demo do the work they claim, on real input."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sandq.demo import metrics

ROOT = Path(__file__).parents[2]


class RunningJob:
    """As much of a running job as the examples use; it keeps what it was told."""

    def __init__(self, data, job_id="1"):
        self.id = job_id
        self.data = data
        self.reports = []
        self.lines = []

    def progress(self, value):
        self.reports.append(value)

    def log(self, line):
        self.lines.append(line)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SNIPPET = b'''"""Two
lines."""

# a comment


class Shop:
    def price(self, items, rebate=None):
        total = sum(i.price for i in items if i.sold and i.paid)  # for, if, and: 3
        if rebate or not items:  # if, or: 2
            return total if total > 0 else 0  # 1
        for item in items:  # 1
            def inner():
                while True:
                    pass
        return total
'''


def test_a_known_snippet_is_counted_line_by_line():
    found = metrics.measure(SNIPPET)
    assert (found.lines, found.blank, found.comment, found.classes) == (16, 3, 1, 1)
    assert len(found.code_lines) == 12
    assert {name: value for value, name in found.complexities} == {"Shop.price": 8, "Shop.price.inner": 2}


def test_a_form_feed_does_not_shift_the_lines():
    found = metrics.measure(b"a = 1\n\x0c\n# note\nb = 2\n")
    assert (found.lines, found.blank, found.comment, found.code_lines) == (4, 1, 1, ("a = 1", "b = 2"))


def test_a_folder_becomes_one_report_and_a_broken_file_is_only_logged(tmp_path):
    (tmp_path / "good.py").write_bytes(SNIPPET)
    (tmp_path / "same.py").write_bytes(SNIPPET)
    (tmp_path / "broken.py").write_text("def (:\n")
    job = RunningJob({"folder": str(tmp_path)})
    report = metrics.process(job)
    assert json.loads(json.dumps(report)) == report
    assert (report["files"], report["functions"], report["classes"]) == (3, 4, 2)
    assert report["lines"] == {"code": 24, "blank": 6, "comment": 2, "repeated_percent": 50.0}
    assert report["complexity"] == {"mean": 5.0, "max": 8, "max_at": "same.py:Shop.price"}
    assert 0 < report["packed_bytes"] < report["bytes"] == 2 * len(SNIPPET) + 7
    assert job.reports == [33, 67, 100]
    assert [line.split(":")[0] for line in job.lines] == ["broken.py"]


def test_a_folder_without_python_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        metrics.process(RunningJob({"folder": str(tmp_path)}))


def test_the_standard_library_is_cut_into_jobs_of_like_size_with_every_file_once():
    jobs = metrics.packages(job_bytes=300_000)
    files = [name for job in jobs for name in job["files"]]
    assert len(files) == len(set(files)) > 400
    assert {"json/decoder.py", "abc.py"} <= set(files)
    assert not any("site-packages" in name for name in files)
    sizes = [sum((Path(job["folder"]) / name).stat().st_size for name in job["files"]) for job in jobs]
    assert all(size <= 300_000 or len(job["files"]) == 1 for size, job in zip(sizes, jobs, strict=True))
    assert statistics.median(sizes) > 200_000


def test_a_real_package_is_measured_by_the_example():
    folder = Path(json.__file__).parent
    report = example("codemetrics").process(RunningJob({"package": "json", "folder": str(folder)}))
    assert report["package"] == "json"
    assert report["lines"]["code"] > 500
    assert report["complexity"]["max"] > 10


def test_the_demo_processor_brings_nothing_but_the_standard_library_into_its_child():
    code = (
        "import sys; before = set(sys.modules); import sandq.demo.metrics; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert set(loaded.stdout.split()) <= {"sandq", *sys.stdlib_module_names}


def black_scholes(spot, strike, rate, volatility, years):
    spread = volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + (rate + volatility**2 / 2) * years) / spread
    normal = statistics.NormalDist().cdf
    return spot * normal(d1) - strike * math.exp(-rate * years) * normal(d1 - spread)


OPTION = {"spot": 100, "strike": 105, "rate": 0.03, "volatility": 0.2, "years": 1.0}


@pytest.mark.parametrize("engine", ["python", "numpy"])
def test_the_simulated_price_is_close_to_black_scholes(engine):
    montecarlo = example("montecarlo")
    if engine == "numpy":
        pytest.importorskip("numpy")
        montecarlo.setup()
    answer = montecarlo.process(RunningJob({**OPTION, "paths": 150_000}))
    assert answer["engine"] == engine
    assert answer["paths"] == 150_000
    assert answer["standard_error"] < 0.03
    assert answer["price"] == pytest.approx(black_scholes(**OPTION), abs=4 * answer["standard_error"])


def test_the_same_job_gives_the_same_price_again_and_another_job_another():
    process = example("montecarlo").process
    data = {**OPTION, "paths": 2000}
    first = process(RunningJob(data, "7"))
    assert process(RunningJob(data, "7")) == first
    assert process(RunningJob(data, "8")) != first


def test_setup_does_without_numpy_where_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    montecarlo = example("montecarlo")
    montecarlo.setup()
    assert montecarlo.process(RunningJob({**OPTION, "paths": 10}))["engine"] == "python"


def test_thumbnails_fit_their_squares_keep_their_shape_and_repeat_exactly():
    pytest.importorskip("PIL")
    process = example("thumbnails").process
    data = {"seed": 3, "width": 400, "height": 300, "sizes": [200, 40]}
    job = RunningJob(data)
    result = process(job)
    assert [(small["width"], small["height"]) for small in result["thumbnails"]] == [(200, 150), (40, 30)]
    assert result["thumbnails"][0]["bytes"] > result["thumbnails"][1]["bytes"] > 0
    assert job.reports == [50, 100]
    assert process(RunningJob(data)) == result
    assert process(RunningJob({**data, "seed": 4})) != result
