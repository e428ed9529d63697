"""The performance gate: what it counts and times, what it says of it, and what it does where something is missing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradfold
from gradfold.perfgate import _worker, baseline, config, counts, report, results, timing
from gradfold.perfgate.__main__ import main
from gradfold.perfgate.config import ConfigError, Side, Time
from gradfold.perfgate.counts import Count
from gradfold.perfgate.loops import Loop
from gradfold.perfgate.results import Result
from gradfold.perfgate.runners import Failed, Seconds, Skipped

PACKAGE = Path(gradfold.__file__).parent


def written(folder: Path, text: str) -> Path:
    path = folder / "perfgate.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


# -- the package itself --------------------------------------------------------------------------------------------------


def test_nothing_compiled_and_no_numpy(tmp_path):
    """A copy of the Python files alone can be imported and says what it can do."""
    (tmp_path / "gradfold").mkdir()
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "gradfold")
    shutil.copytree(PACKAGE / "perfgate", tmp_path / "gradfold" / "perfgate", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys, pkgutil, importlib, gradfold.perfgate as p\n"
        "for m in pkgutil.iter_modules(p.__path__): m.name[0] == '_' or importlib.import_module('gradfold.perfgate.' + m.name)\n"
        "assert not {'numpy', 'gradfold._core', 'asv_runner'} & set(sys.modules), sys.modules\n"
        "from gradfold.perfgate.__main__ import main; main(['--help'])"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "compare" in done.stdout, done.stderr


# -- the configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none of .counts., .loops., .time."),
        ("x = [", "no TOML"),
        ("[clock]\n", "none of|unknown name 'clock'"),
        ("[loops]\nobjects = ['*.o']\nspeed = 3", r"\[loops\]: unknown name 'speed', wanted one of objects"),
        ("[loops]\nobjects = '*.o'", r"\[loops\]: objects: got '\*.o', wanted list"),
        ("[loops]\nobjects = [3]", r"objects: got \[3\], wanted a list of strings"),
        ("[loops]\nobjects = []", "objects: got .., wanted at least one"),
        ("[loops]\nobjects = ['a']\nthreshold = -0.1", "threshold: got -0.1, wanted a number of at least 0"),
        ("[loops]\nobjects = ['a']\nthreshold = true", "threshold: got True, wanted int or float"),
        ("[loops]\nobjects = ['a']\nthreshold = nan", "threshold: got nan"),
        ("[loops]\nobjects = ['a']\nthreshold = inf", "threshold: got inf"),
        ("[loops]\nobjects = ['a']\nminimum = 0", "minimum: got 0"),
        ("[counts]\n", "commands: got .., wanted at least one"),
        ("[counts]\ncommands = ['ls']", "commands: got .'ls'., wanted tables"),
        ("[[counts.commands]]\nname = 'a'", "command: got None, wanted one that is not empty"),
        ("[[counts.commands]]\nname = 'a'\ncommand = ['b']\ncases = ['c']\nlist_cases = ['d']", "cases: .*either"),
        ("[[counts.commands]]\nname = 'a'\ncommand = ['b']\nenvironment = {A = 1}", "environment: .*a table of strings"),
        ("[[counts.commands]]\nname = 'a'\ncommand = ['b']\n[[counts.commands]]\nname = 'a'\ncommand = ['b']", "names that differ"),
        ("[time]\n", "suite: got None, wanted a suite, or commands"),
        ("[time]\nsuite = 's'\nbenchmarks = '('", "benchmarks: got '.', wanted a regular expression"),
        ("[time]\nsuite = 's'\nrounds = 2", "rounds: got 2, wanted a whole number of at least 3"),
        ("[time]\nsuite = 's'\nrounds = 5.0", "rounds: got 5.0, wanted int"),
        ("toolchain = ['gcc']\n[loops]\nobjects = ['a']", "toolchain: .*list of lists"),
    ],
)
def test_a_configuration_that_is_wrong(tmp_path, text, message, capsys):
    with pytest.raises(ConfigError, match=message):
        config.read(written(tmp_path, text))
    assert main(["check", "--config", str(tmp_path / "perfgate.toml")]) == results.DID_NOT_RUN
    assert "perfgate: " in capsys.readouterr().err


def test_no_configuration(tmp_path, capsys):
    assert main(["compare", "--config", str(tmp_path / "none.toml"), "--base", "a=b"]) == results.DID_NOT_RUN
    assert "cannot be read" in capsys.readouterr().err


def test_paths_are_relative_to_the_file(tmp_path):
    found = config.read(written(tmp_path, "baseline = 'b/c.json'\n[time]\nsuite = 'benchmarks'"))
    assert found.root == tmp_path and found.baseline == tmp_path / "b/c.json"
    assert found.time is not None and found.time.suite == tmp_path / "benchmarks" and found.stages == ("time",)


def test_placeholders():
    side = Side("head", {"build": "/b", "python": "py"})
    assert side.fill(("{build}/x", "{case}", "a{{b}}"), case="c d") == ["/b/x", "c d", "a{b}"]
    with pytest.raises(ConfigError, match="nothing is known of {site} of head, wanted --head site=VALUE"):
        side.fill(("{site}",))
    for word in ("{", "{a:{b}}", "{build!r}"):
        with pytest.raises(ConfigError, match="written twice"):
            side.fill((word,))


# -- counts --------------------------------------------------------------------------------------------------------------


def test_a_file_of_callgrinds():
    text = """\
version: 1
events: Ir
fn=(1) main
0 10
cfn=(2) malloc
calls=3 0
0 90
fn=(3) helper
cfn=(4) operator new(unsigned long)
calls=5 0
0 50
cfn=(2)
calls=4 0
0 7
cfn=(5) mallocate
calls=100 0
0 1
cfn=(6) posix_memalign'2
calls=2 0
0 1
summary: 1234
totals: 1234
"""
    assert counts.parse(iter(text.splitlines(keepends=True))) == Count(1234, 9)
    with pytest.raises(counts.DidNotRun, match="no sum"):
        counts.parse(iter(["events: Ir\n"]))


COUNT = st.builds(Count, st.integers(1, 10**9), st.integers(0, 1000))
COUNTS = st.dictionaries(st.sampled_from("abcdef"), COUNT | st.just("broke"))


@given(COUNTS, COUNTS)
def test_comparing_counts(base, head):
    found = {r.name: r for r in counts.compare(base, head, 0.03, 1)}
    for name in {*base, *head}:
        old, new = base.get(name), head.get(name)
        if isinstance(old, Count) and isinstance(new, Count):
            worse = new.instructions > 1.03 * old.instructions or new.allocations > 1.03 * old.allocations
            assert (found[name].state == "slower") == worse
        else:
            assert found[name].state == ("new" if old is None and isinstance(new, Count) else "did not run")
    both = [name for name in base if isinstance(base[name], Count) and isinstance(head.get(name), Count)]
    assert ("minimum" in found) == (not both)


# -- the statistics of times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1, 0), (5, 0), (7, 0), (8, 0), (10, 0), (11, 0), (12, 1), (15, 2), (20, 3), (30, 7)])
def test_the_interval_is_that_of_the_tables(n, k):
    """Ranks at 99 %, from a table of the binomial distribution with p = 1/2."""
    values = random.Random(n).sample(range(1000), n)
    assert timing.interval(values) == (sorted(values)[k], sorted(values)[n - 1 - k])


def test_the_interval_covers_the_median():
    generator, hits, n = random.Random(3), 0, 4000
    for _ in range(n):
        low, high = timing.interval([generator.expovariate(1) for _ in range(15)])
        hits += low <= 0.6931471805599453 <= high
    assert 0.985 < hits / n < 0.999  # the interval of 15 values has 99.26 %


@dataclass
class Fake:
    """A runner whose seconds are those it is told."""

    cpu: object
    threads: float = 1.0
    calls: list[str] = field(default_factory=list)
    fails: str = ""

    def set_up(self, name, index):
        self.calls.append(f"set up {index}")
        if self.fails == "skip":
            raise Skipped("not here")
        if self.fails == "fail":
            raise Failed("no memory")

    def number(self, seconds):
        return 3

    def run(self, number):
        self.calls.append(f"run {number}")
        cpu = self.cpu() if callable(self.cpu) else self.cpu
        return Seconds(cpu, cpu / self.threads)

    def tear_down(self):
        self.calls.append("tear down")

    def close(self):
        self.calls.append("close")


POINT = timing.Point("b", "b", (0, 1))
SETTINGS = Time()


def verdict(base, head, again=None):
    """Of fakes: those of the look, and the ones that `again` makes."""
    made = []

    def fresh():
        pair = again() if again else (Fake(base.cpu, base.threads), Fake(head.cpu, head.threads))
        made.append(pair)
        return pair

    return timing._result(POINT, SETTINGS, (base, head), fresh), made


def test_the_same_time_is_looked_at_once():
    base, head = Fake(1.0), Fake(1.0)
    found, made = verdict(base, head)
    assert found.state == "same" and not made and found.ratio == 1.0
    assert base.calls == ["set up 0", *["run 3"] * 15, "tear down"] and head.calls[0] == "set up 1"


def test_slower_is_measured_twice_in_fresh_processes():
    found, made = verdict(Fake(1.0), Fake(1.2))
    assert found.state == "slower" and len(made) == 6 and found.ratio == pytest.approx(1.2)
    assert all(runner.calls[-1] == "close" for pair in made for runner in pair)


def test_what_a_second_measurement_does_not_see_does_not_count():
    ratios = iter([1.2, 1.2, 1.2, 1.0, 1.0, 1.0])
    found, made = verdict(Fake(1.0), Fake(1.2), lambda: (Fake(1.0), Fake(next(ratios))))
    assert found.state == "same" and "not in a second one" in found.what and len(made) == 6


def test_what_a_first_measurement_does_not_see_ends_it():
    found, made = verdict(Fake(1.0), Fake(1.2), lambda: (Fake(1.0), Fake(1.0)))
    assert found.state == "same" and len(made) == 3


def test_slower_below_the_threshold_is_the_same():
    assert verdict(Fake(1.0), Fake(1.04))[0].state == "same"
    assert verdict(Fake(1.0), Fake(0.8))[0].state == "faster"


def test_what_waits_is_judged_by_the_clock():
    """30 ms of sleep take next to no processor time, whose ratios are noise."""
    base, head = (Fake(0.0001, 0.003), Fake(0.0003, 0.009))
    found = verdict(base, head)[0]
    assert found.state == "same" and "processor" not in found.what
    assert verdict(Fake(0.0001, 0.003), Fake(0.0001, 0.0015))[0].state == "slower"


def test_the_two_measurements_must_agree_on_the_clock():
    heads = iter([Fake(1.2, 2.4)] * 3 + [Fake(1.0, 1.0)] * 3)
    found, _ = verdict(Fake(1.0, 2.0), Fake(1.2, 2.4), lambda: (Fake(1.0, 2.0), next(heads)))
    assert found.state == "same"


@pytest.mark.parametrize("seed", range(40))
def test_noise_alone_is_not_slower(seed):
    """A third of the bodies meet a neighbour that takes up to twice the time, on either side."""
    generator = random.Random(seed)

    def noisy(base):
        return lambda: base * generator.uniform(0.98, 1.02) * (generator.uniform(1, 2) if generator.random() < 1 / 3 else 1)

    assert verdict(Fake(noisy(1.0)), Fake(noisy(1.0)))[0].state in ("same", "faster")
    assert verdict(Fake(noisy(1.0)), Fake(noisy(2.0)))[0].state == "slower"


def test_the_clock_counts_where_threads_work_together():
    """A lock takes no processor time: its threads sleep."""
    assert verdict(Fake(1.0, 1.9), Fake(1.0, 1.0))[0].state == "slower"
    # A neighbour took a core most of the time, so that base mostly looks as if it had one thread.
    found = timing.Ratios.of([(Seconds(1.0, 0.9), Seconds(1.0, 1.8)), (Seconds(1.0, 0.6), Seconds(1.0, 1.7))])
    assert "time on the clock" in [name for name, _, _ in found.clocks(SETTINGS)]
    assert "time on the clock" in verdict(Fake(1.0, 1.9), Fake(1.0, 1.0))[0].what
    assert verdict(Fake(1.0, 1.9), Fake(1.0, 1.7))[0].state == "same"  # x 1.12
    assert verdict(Fake(1.0, 1.0), Fake(1.0, 0.5))[0].state == "same"  # one thread that waited: for a neighbour, for all we know


class Host:
    """Puts both processors on one core for 20 bodies in 120 or so: threads gain nothing then, and lose nothing by a lock."""

    def __init__(self, seed):
        self.generator, self.left = random.Random(seed), 0

    def fake(self, threads):
        fake = Fake(1.0)

        def run(number):
            self.left = self.left - 1 if self.left else 20 * (self.generator.random() < 1 / 100)
            return Seconds(2.0, 2.0) if self.left else Seconds(1.4, 1.4 / threads)

        fake.run = run
        return fake


def test_a_lock_is_seen_though_the_processors_are_one_core_at_times():
    """Nearly always: a look, or a first length, that lies in such a time as a whole cannot tell. Then the same build."""
    seen = 0
    for seed in range(100):
        host = Host(seed)
        sides = lambda threads: (host.fake(2.0), host.fake(threads))  # noqa: B023, E731
        seen += verdict(*sides(1.0), lambda: sides(1.0))[0].state == "slower"  # noqa: B023
        assert verdict(*sides(2.0), lambda: sides(2.0))[0].state == "same"  # noqa: B023
    assert seen >= 90  # 19, where a measurement that cannot tell does not go on


def test_a_measurement_that_cannot_tell_goes_on(monkeypatch):
    """Every other pair of processes says so: never enough for the interval."""
    turn = iter(range(1000))

    def fresh():
        return Fake(1.0, 2.0), Fake(1.0, 2.0 if next(turn) % 2 else 1.0)

    found, made = verdict(Fake(1.0, 2.0), Fake(1.0, 1.0), fresh)
    assert found.state == "same" and "not clear" in found.what and len(made) == 12
    monkeypatch.setattr(timing, "LONG", -1.0)  # it has taken longer already
    found, made = verdict(Fake(1.0, 2.0), Fake(1.0, 1.0), fresh)
    assert found.state == "same" and "not clear" in found.what and len(made) == 3


def test_only_what_the_clock_leaves_open_goes_on():
    """Not what a neighbour leaves of processor time, nor where that has told already."""
    turn = iter(range(1000))
    found, made = verdict(Fake(1.0), Fake(1.2), lambda: (Fake(1.0), Fake(1.0 if next(turn) % 2 else 1.2)))
    assert found.state == "same" and "suspicious at first" in found.what and len(made) == 3
    both = lambda: (Fake(1.0, 2.0), Fake(1.2, 2.0 if next(turn) % 2 else 1.0))  # noqa: E731
    found, made = verdict(Fake(1.0, 2.0), Fake(1.2, 1.0), both)
    assert found.state == "slower" and len(made) == 6


@pytest.mark.parametrize(("n", "slow", "suspicious", "unclear"), [
    (5, 1, False, False), (5, 2, True, True), (5, 5, True, False), (15, 3, False, False), (15, 4, True, True), (15, 12, True, True),
    (15, 13, True, False), (60, 15, False, False), (60, 16, True, True), (60, 40, True, True), (60, 41, True, False),
])  # fmt: skip
def test_how_many_rounds_the_clock_takes(n, slow, suspicious, unclear):
    """By hand: more than a fourth, and by a table of the binomial distribution fewer than the interval of 99 % takes."""
    rounds = [(Seconds(1.0, 0.5), Seconds(1.0, 0.5 + 0.25 * (k < slow))) for k in range(n)]
    found = timing.Ratios.of(rounds)
    assert (found.suspicious(SETTINGS), found.unclear(SETTINGS)) == (suspicious, unclear)


def test_waiting_is_judged_by_the_middle_round():
    """One round of ten times as many bodies, in which some processor time is seen, does not make the clock mute."""
    rounds = [(Seconds(0.001, 0.02), Seconds(0.001, 0.04))] * 14 + [(Seconds(0.01, 0.2), Seconds(0.01, 0.4))]
    assert timing.Ratios.of(rounds).slower(SETTINGS) == {timing.WALL}


def test_sides_that_cannot_be_compared():
    assert verdict(Fake(1.0, fails="skip"), Fake(1.0, fails="skip"))[0].state == "skipped"
    only = "only one side skips it, "
    no = "no memory"
    for base, head, said in (("skip", "", only + "base"), ("", "skip", only + "head"), ("fail", "", no), ("", "fail", no)):
        fakes = Fake(1.0, fails=base), Fake(1.0, fails=head)
        found, _ = verdict(*fakes)
        assert found.state == "did not run" and said in found.what
        assert all(fake.calls[-1:] in ([], ["tear down"]) for fake in fakes if not fake.fails)  # [] where it was not its turn


def test_points():
    points, missing = timing.points_of({"a.time_x": ["1", "2"], "a.time_gone": [""]}, {"a.time_x": ["0", "2", "1"], "time_new": [""]}, "")
    assert points == [timing.Point("a.time_x(1)", "a.time_x", (0, 2)), timing.Point("a.time_x(2)", "a.time_x", (1, 1))]
    assert {(r.name, r.state) for r in missing} == {("a.time_gone", "did not run"), ("a.time_x(0)", "new"), ("time_new", "new")}
    assert [p.name for p in timing.points_of({"a": ["1", "2"]}, {"a": ["1", "2"]}, r"\(2\)")[0]] == ["a(2)"]


# -- an asv suite, in processes ------------------------------------------------------------------------------------------

SUITE = '''
import os, sys
import library

class Suite:
    params = ([1, 2], ["a"])
    param_names = ["size", "kind"]
    def setup(self, size, kind):
        if size == 2 and os.environ.get("SKIP"):
            raise NotImplementedError("not here")
        self.size = size
        print("prints")
    def time_work(self, size, kind):
        library.work(self.size)
    def track_other(self, size, kind):
        return 1

class Cached:
    def setup_cache(self):
        return 7
    def time_cached(self, value):
        assert value == 7
        library.work(1)

def time_broken():
    library.broken()
time_broken.setup = lambda: None

def time_leaves():
    library.leaves()

class Fresh:
    number = 1
    def setup(self):
        self.left = [0] * 30_000
    def time_fresh(self):
        library.use_up(self.left)

def timeraw_other():
    return "import library"
'''
LIBRARY = """
import os, time
def work(size):
    for _ in range({loops} * size):
        pass
def broken():
    {broken}
def leaves():
    {leaves}
def use_up(left):
    for _ in range({loops} // 20_000):
        for _ in left:
            pass
    left.clear()
"""


@pytest.fixture
def suite(tmp_path):
    pytest.importorskip("asv_runner")
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "bench.py").write_text(SUITE)

    def library(name, loops=20_000, broken="pass", leaves="pass"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "library.py").write_text(LIBRARY.format(loops=loops, broken=broken, leaves=leaves))

    return library


QUICK = "body = 0.005\nrounds = 3\nrepeats = 2\ngenerations = 2\n"
TIME = '[time]\nsuite = "suite"\nenvironment = {PYTHONPATH = "{lib}"}\n' + QUICK


def gate(folder, *arguments, text=TIME):
    """(exit code, results by name) of a comparison."""
    path = written(folder, text)
    found = main([*arguments, "--config", str(path), "--json", str(folder / "out.json")])
    told = json.loads((folder / "out.json").read_text())
    assert told["exit_code"] == found
    return found, {r["name"]: r for r in told["results"]}


def libs(folder):
    return ["compare", "--base", f"lib={folder / 'base'}", "--head", f"lib={folder / 'head'}"]


BENCHMARKS = ["Suite.time_work(1, 'a')", "Suite.time_work(2, 'a')", "Cached.time_cached", "time_broken", "time_leaves", "Fresh.time_fresh"]
NAMES = {f"bench.{name}" for name in BENCHMARKS}


def test_a_suite_that_is_the_same(suite, tmp_path):
    suite("base"), suite("head")
    code, found = gate(tmp_path, *libs(tmp_path))
    assert set(found) == NAMES
    assert code == 0 and {r["state"] for r in found.values()} <= {"same", "faster"}, found


def test_a_suite_that_is_slower(suite, tmp_path):
    suite("base"), suite("head", loops=100_000)
    code, found = gate(tmp_path, *libs(tmp_path))
    assert code == results.SLOWER
    slow = {name for name, r in found.items() if r["state"] == "slower"}
    assert slow == {n for n in NAMES if "work" in n or "cached" in n or "fresh" in n}, found
    assert all(2 < found[name]["ratio"] < 12 for name in slow)


@pytest.mark.parametrize(
    ("broken", "leaves", "said"),
    [
        ("raise KeyError('gone')", "pass", "KeyError: 'gone'"),
        ("pass", "os._exit(3)", "its process ended with 3"),
        ("pass", "time.sleep(60)", "no answer after"),
    ],
)
def test_a_suite_that_breaks(suite, tmp_path, broken, leaves, said):
    """The rest is measured all the same, and the exit code says that something did not run."""
    suite("base"), suite("head", broken=broken, leaves=leaves)
    code, found = gate(tmp_path, *libs(tmp_path), text=TIME + f"timeout = {10 if 'sleep' in leaves else 60}\n")
    assert code == results.DID_NOT_RUN
    broke = {name for name, r in found.items() if r["state"] == "did not run"}
    assert broke == {"bench.time_broken" if broken != "pass" else "bench.time_leaves"}
    assert all(said in found[name]["what"] and "head" in found[name]["what"] for name in broke)
    assert set(found) == NAMES


def test_a_suite_that_cannot_be_imported(suite, tmp_path):
    suite("base"), (tmp_path / "head").mkdir()
    code, found = gate(tmp_path, *libs(tmp_path))
    assert code == results.DID_NOT_RUN and "head: " in found["suite"]["what"] and "No module named 'library'" in found["suite"]["what"]


def test_fewer_benchmarks_than_expected(suite, tmp_path):
    suite("base"), suite("head")
    code, found = gate(tmp_path, *libs(tmp_path), text=TIME + "benchmarks = 'cached'\nminimum = 2\n")
    assert code == results.DID_NOT_RUN and "1 compared, at least 2 expected" in found["minimum"]["what"]


def test_an_editable_install_does_not_stand_before_the_sides(suite, tmp_path):
    """What is on PYTHONPATH is what a side imports, also where a finder of an installed package comes first."""
    suite("base"), suite("head", loops=100_000)
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "library.py").write_text(LIBRARY.format(loops=1, broken="pass", leaves="pass"))
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys, importlib.machinery as m\n"
        "class Redirects:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        return m.PathFinder.find_spec(name, [{str(tmp_path / 'installed')!r}]) if name == 'library' else None\n"
        "sys.meta_path.insert(0, Redirects)\n"
    )
    text = TIME.replace('"{lib}"', f'"{{lib}}{os.pathsep}{site}"') + "benchmarks = 'cached'\nmodules = ['library']\n"
    code, found = gate(tmp_path, *libs(tmp_path), text=text)
    assert code == results.SLOWER and found["bench.Cached.time_cached"]["state"] == "slower"


def test_what_lies_in_a_package_of_a_side_is_the_sides(tmp_path):
    for name in ("side", "other"):
        (tmp_path / name / "package").mkdir(parents=True)
        for file in ("__init__.py", "inner.py"):
            (tmp_path / name / "package" / file).touch()
    first = _worker._First([str(tmp_path / "side"), ""])
    assert first.find_spec("package").origin == str(tmp_path / "side/package/__init__.py")
    assert first.find_spec("package.inner", [str(tmp_path / "side/package")]).origin == str(tmp_path / "side/package/inner.py")
    assert first.find_spec("package.inner", [str(tmp_path / "other/package")]) is None
    assert first.find_spec("package.none", [str(tmp_path / "side/package")]) is None
    assert _worker._First([str(tmp_path / "side")], "asv_runner").find_spec("package") is None


def test_sides_that_import_the_same_file(suite, tmp_path):
    suite("base"), (tmp_path / "head").mkdir()
    text = TIME.replace('"{lib}"', f'"{{lib}}{os.pathsep}{tmp_path / "base"}"') + "modules = ['library']\n"
    code, found = gate(tmp_path, *libs(tmp_path), text=text)
    assert code == results.DID_NOT_RUN and "both sides import library from" in found["suite"]["what"]


def test_sides_that_are_the_same(tmp_path, capsys):
    """Also where they differ in what no command uses."""
    path = written(tmp_path, TIMED)
    for base, head in (("loops=1", "loops=1"), ("loops=1 x=1", "loops=1 x=2")):
        words = ["compare", "--config", str(path), "--base", *base.split(), "--head", *head.split()]
        assert main(words) == results.DID_NOT_RUN
        assert "is the same on both sides" in capsys.readouterr().err


def test_not_implemented_in_a_body_is_no_skip(suite, tmp_path):
    suite("base"), suite("head", broken="raise NotImplementedError('yet')")
    code, found = gate(tmp_path, *libs(tmp_path), text=TIME + "benchmarks = 'broken'\n")
    assert code == results.DID_NOT_RUN and "NotImplementedError: yet" in found["bench.time_broken"]["what"]


def test_a_body_that_reads_its_standard_input(suite, tmp_path):
    suite("base"), suite("head", leaves="import sys; assert sys.stdin.read() == ''")
    code, found = gate(tmp_path, *libs(tmp_path), text=TIME + "benchmarks = 'leaves'\n")
    assert found["bench.time_leaves"]["state"] in ("same", "slower") and not code & results.DID_NOT_RUN


def test_relative_paths_are_those_of_the_shell(suite, tmp_path, monkeypatch):
    suite("base"), suite("head", loops=100_000)
    monkeypatch.chdir(tmp_path)
    code, found = gate(tmp_path, "compare", "--base", "lib=base", "--head", "lib=head", text=TIME + "benchmarks = 'cached'\n")
    assert code == results.SLOWER


def test_skipped(suite, tmp_path, monkeypatch):
    suite("base"), suite("head")
    monkeypatch.setenv("SKIP", "1")
    code, found = gate(tmp_path, *libs(tmp_path))
    assert code == 0 and found["bench.Suite.time_work(2, 'a')"]["state"] == "skipped"


def test_workers_end_with_the_gate(suite, tmp_path):
    """An interrupt leaves no process behind."""
    suite("base"), suite("head", leaves="time.sleep(60)")
    path = written(tmp_path, TIME)
    words = [sys.executable, "-m", "gradfold.perfgate", *libs(tmp_path), "--config", str(path)]
    gate_process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{gate_process.pid}/task/{gate_process.pid}/children")
    if not children.exists():
        gate_process.kill()
        gate_process.communicate()
        pytest.skip("needs /proc/PID/task/TID/children")
    end = time.monotonic() + 30
    while time.monotonic() < end and len(children.read_text().split()) < 2:
        time.sleep(0.05)
    workers = [int(pid) for pid in children.read_text().split()]
    assert len(workers) == 2
    gate_process.send_signal(signal.SIGINT)
    gate_process.communicate(timeout=30)
    assert gate_process.returncode == 130
    end = time.monotonic() + 20  # one that the gate did not yet know of ends when its standard input does
    while time.monotonic() < end and any(os.path.exists(f"/proc/{pid}") for pid in workers):
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


# -- commands ------------------------------------------------------------------------------------------------------------

TIMED = f"[time]\n{QUICK}" + """
[[time.commands]]
name = "program"
command = ["{python}", "-S", "-c", "for _ in range({loops} * {case}): pass"]
cases = ["1", "2"]
"""


def test_commands_that_are_timed(tmp_path):
    arguments = ["compare", "--base", "loops=200000", "--head", "loops=200001"]
    assert gate(tmp_path, *arguments, text=TIMED)[0] == 0
    code, found = gate(tmp_path, *arguments[:-1], "loops=6000000", text=TIMED)
    assert code == results.SLOWER and {r["state"] for r in found.values()} == {"slower"} and set(found) == {"program/1", "program/2"}


def test_cases_that_a_command_lists(tmp_path):
    text = TIMED.replace('cases = ["1", "2"]', 'list_cases = ["{python}", "-c", "print({loops} % 7); print(5)"]')
    code, found = gate(tmp_path, "compare", "--base", "loops=3", "--head", "loops=4", text=text)
    assert code == results.DID_NOT_RUN
    assert {name: r["state"] for name, r in found.items() if name != "program/5"} == {"program/3": "did not run", "program/4": "new"}


def test_a_program_that_does_not_end_takes_its_children_along(tmp_path):
    seconds = f"31{os.getpid()}"  # of this run alone: another one, of the same tests, may be at it
    text = TIMED.replace(
        '["{python}", "-S", "-c", "for _ in range({loops} * {case}): pass"]', f'["sh", "-c", "sleep {seconds}{{loops}}; true"]'
    )
    text = text.replace("[time]\n", "[time]\ntimeout = 1\n")
    code, found = gate(tmp_path, "compare", "--base", "loops=3", "--head", "loops=4", text=text)
    assert code == results.DID_NOT_RUN and "no end after 1 s" in found["program/1"]["what"]
    left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in os.listdir("/proc") if pid.isdigit()] if os.path.isdir("/proc") else []
    assert not [words for words in left if words.startswith(f"sleep\0{seconds}".encode())]


def test_commands_that_fail(tmp_path):
    text = TIMED.replace("for _ in range({loops} * {case}): pass", "import sys; sys.exit('too bad {loops}')")
    code, found = gate(tmp_path, "compare", "--base", "loops=1", "--head", "loops=2", text=text)
    assert code == results.DID_NOT_RUN and "too bad 1" in found["program/1"]["what"]
    text = TIMED.replace("{python}", "no-such-program")
    code, found = gate(tmp_path, "compare", "--base", "loops=1", "--head", "loops=2", text=text)
    assert code == results.DID_NOT_RUN and "no-such-program" in found["program/1"]["what"]


PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
__attribute__((noinline)) void counted(int n) {
  for (volatile int i = 0; i < n * %(work)d; ++i) {}
  for (int i = 0; i < %(allocations)d; ++i) free(malloc(1 + (size_t)(n & i)));
}
int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--list") == 0) return puts("small\\nlarge") < 0;
  if (argc > 1 && strcmp(argv[1], "%(fails)s") == 0) return 9;
  for (volatile int i = 0; i < 100000; ++i) free(malloc(8));
  counted(argc > 1 && strcmp(argv[1], "large") == 0 ? 2000 : 1000);
}
"""
COUNTED = """
baseline = "base.json"
toolchain = [["cc", "--version"]]
[[counts.commands]]
name = "kernels"
command = ["{program}", "{case}"]
list_cases = ["{program}", "--list"]
inside = "counted"
"""
needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None or shutil.which("cc") is None, reason="valgrind or a C compiler is not installed"
)


def compiled(folder, name, work=10, allocations=4, fails="nothing"):
    source = folder / f"{name}.c"
    source.write_text(PROGRAM % {"work": work, "allocations": allocations, "fails": fails})
    subprocess.run(["cc", "-O1", "-fno-builtin", "-o", str(folder / name), str(source)], check=True)
    return f"program={folder / name}"


@needs_valgrind
def test_counting(tmp_path, capsys):
    one, same = compiled(tmp_path, "one"), compiled(tmp_path, "same")
    code, found = gate(tmp_path, "compare", "--base", one, "--head", same, text=COUNTED)
    assert code == 0 and {r["ratio"] for r in found.values()} == {1.0} and set(found) == {"kernels/small", "kernels/large"}
    assert "allocations" not in found["kernels/small"]["what"]
    more = compiled(tmp_path, "more", work=11)
    code, found = gate(tmp_path, "compare", "--base", one, "--head", more, text=COUNTED)
    assert code == results.SLOWER and all(1.05 < r["ratio"] < 1.15 for r in found.values())
    assert gate(tmp_path, "compare", "--base", more, "--head", one, text=COUNTED)[1]["kernels/large"]["state"] == "faster"
    allocates = compiled(tmp_path, "allocates", allocations=5)
    code, found = gate(tmp_path, "compare", "--base", one, "--head", allocates, text=COUNTED)
    assert code == results.SLOWER and "4 -> 5 allocations" in found["kernels/small"]["what"]
    capsys.readouterr()


@needs_valgrind
def test_children_are_counted(tmp_path):
    """A program that starts another: the other's instructions count."""
    text = COUNTED.replace('["{program}", "{case}"]', '["sh", "-c", "{program} {case}; true"]').replace('inside = "counted"\n', "")
    code, found = gate(tmp_path, "compare", "--base", compiled(tmp_path, "one"), "--head", compiled(tmp_path, "more", work=400), text=text)
    assert code == results.SLOWER and found["kernels/large"]["state"] == "slower"


@needs_valgrind
def test_a_stage_that_cannot_be_done_takes_nothing_from_the_others(tmp_path):
    text = COUNTED + '[loops]\nobjects = ["{program}.o"]\n'
    code, found = gate(tmp_path, "compare", "--base", compiled(tmp_path, "one"), "--head", compiled(tmp_path, "more", work=20), text=text)
    assert code == results.SLOWER | results.DID_NOT_RUN
    assert found["kernels/large"]["state"] == "slower" and found["stage"]["stage"] == "loops"


@needs_valgrind
def test_counting_what_fails(tmp_path):
    one, fails = compiled(tmp_path, "one"), compiled(tmp_path, "fails", fails="large")
    code, found = gate(tmp_path, "compare", "--base", one, "--head", fails, text=COUNTED)
    assert code == results.DID_NOT_RUN and "ended with 9" in found["kernels/large"]["what"] and found["kernels/small"]["state"] == "same"
    same = compiled(tmp_path, "same")
    code, found = gate(tmp_path, "compare", "--base", one, "--head", same, text=COUNTED.replace('"counted"', '"no_such_function"'))
    assert code == results.DID_NOT_RUN and "no instruction was counted" in found["kernels/large"]["what"]


@needs_valgrind
def test_a_baseline(tmp_path, capsys):
    one = compiled(tmp_path, "one")
    path = written(tmp_path, COUNTED)
    arguments = ["--config", str(path), "--head", one]
    assert main(["check", *arguments]) == results.DID_NOT_RUN  # there is none yet
    assert main(["renew", *arguments, "--reason", "the first"]) == 0
    assert main(["check", *arguments]) == 0
    kept = json.loads((tmp_path / "base.json").read_text())
    assert kept["reason"] == "the first" and set(kept["counts"]) == {"kernels/small", "kernels/large"}
    assert main(["check", "--config", str(path), "--head", compiled(tmp_path, "more", work=12)]) == results.SLOWER
    fails = compiled(tmp_path, "fails", fails="large")
    assert main(["renew", "--config", str(path), "--head", fails, "--reason", "no"]) == results.DID_NOT_RUN
    assert json.loads((tmp_path / "base.json").read_text()) == kept  # a renewal that fails leaves it
    written(tmp_path, COUNTED.replace("[[counts", "[counts]\nminimum = 3\n[[counts"))
    assert main(["renew", *arguments, "--reason", "no"]) == results.DID_NOT_RUN and json.loads((tmp_path / "base.json").read_text()) == kept
    written(tmp_path, COUNTED)
    kept["toolchain"] = {"cc --version": "another"}
    (tmp_path / "base.json").write_text(json.dumps(kept))
    capsys.readouterr()
    assert main(["check", *arguments]) == results.DID_NOT_RUN
    assert "other compilers" in capsys.readouterr().err
    for text in ("", "[]", "{}", '{"format": 99}'):
        (tmp_path / "base.json").write_text(text)
        assert main(["check", *arguments]) == results.DID_NOT_RUN


@needs_valgrind
def test_a_baseline_of_the_tree(tmp_path, capsys):
    """`--build` builds what is counted; the next time from the tree as it is then."""
    source, build = tmp_path / "program.c", '[build]\ncommands = [["cc", "-O1", "-fno-builtin", "-o", "{build}", "{source}/program.c"]]\n'
    source.write_text(PROGRAM % {"work": 10, "allocations": 4, "fails": "nothing"})
    path = written(tmp_path, COUNTED.replace("{program}", "{build}") + build)
    arguments = ["--config", str(path), "--build", "--builds", str(tmp_path / "out")]
    assert main(["renew", *arguments, "--reason", "the first"]) == 0
    assert main(["check", *arguments]) == 0
    source.write_text(PROGRAM % {"work": 12, "allocations": 4, "fails": "nothing"})
    assert main(["check", *arguments]) == results.SLOWER
    source.write_text("no C")
    assert main(["check", *arguments]) == results.DID_NOT_RUN
    capsys.readouterr()
    assert main(["check", *arguments, "--head", "build=elsewhere"]) == results.DID_NOT_RUN
    assert "cannot be given with --build" in capsys.readouterr().err
    written(tmp_path, COUNTED)
    assert main(["check", *arguments]) == results.DID_NOT_RUN
    assert "the configuration has no [build]" in capsys.readouterr().err


LOOPS = st.builds(Loop, *[st.integers(0, 99)] * 7)


@given(st.dictionaries(st.text(), COUNT), st.dictionaries(st.text(), st.lists(LOOPS, min_size=1, max_size=12), max_size=5))
def test_a_baseline_is_read_as_it_was_written(tmp_path_factory, found, functions):
    loops = {f"{function}#{k}": loop for function, own in functions.items() for k, loop in enumerate(own)}
    path = tmp_path_factory.mktemp("baseline") / "counts.json"
    written = baseline.Baseline('why "LOOPS"', {"cc": "12"}, found, loops)
    baseline.save(path, written)
    read = baseline.load(path)
    assert (read.reason, read.toolchain, read.counts) == (written.reason, written.toolchain, written.counts)
    assert sorted(read.loops.values()) == sorted(loops.values()) and set(read.loops) == set(loops)


# -- a revision ----------------------------------------------------------------------------------------------------------

BUILT = """
[build]
commands = [
  ["{python}", "-c", "import sys, shutil; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)", "{source}/src", "{build}"],
]
[time]
rounds = 3
repeats = 2
generations = 2
[[time.commands]]
name = "program"
command = ["{python}", "-S", "{build}/program.py"]
"""


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_revision_is_built_beside_the_tree(tmp_path, capsys):
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    git(root, "init", "-q")
    (root / "src/program.py").write_text("for _ in range(300_000): pass\n")
    (root / ".gitignore").write_text("out\n")
    path = written(root, BUILT)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    arguments = ["compare", "--config", str(path), "--revision", "HEAD", "--builds", str(root / "out")]
    assert main(arguments) == 0
    (root / "src/program.py").write_text("for _ in range(6_000_000): pass\n")  # not committed
    assert main(arguments) == results.SLOWER
    capsys.readouterr()
    for pair in ("build=elsewhere", "source=elsewhere"):
        assert main([*arguments, "--head", pair]) == results.DID_NOT_RUN
        assert "cannot be given with --revision" in capsys.readouterr().err
    assert main([*arguments[:4], "no-such-revision", *arguments[5:]]) == results.DID_NOT_RUN
    assert "no-such-revision" in capsys.readouterr().err
    path.write_text(path.read_text().replace("shutil.copytree", "sys.exit('does not build') or shutil.copytree"))
    assert main(arguments) == results.DID_NOT_RUN
    assert "does not build" in capsys.readouterr().err
    assert main([*arguments, "--base", "a=b"]) == results.DID_NOT_RUN


# -- reports -------------------------------------------------------------------------------------------------------------

FOUND = [
    Result("counts", "a|b", "slower", "10 -> 20\ninstructions <&>", 2.0),
    Result("time", "c", "did not run", "bad \x00 character"),
    Result("time", "d", "skipped", "not here"),
    Result("time", "e", "same", "as before", 1.0),
]


def test_what_the_gate_stumbles_over_is_not_slower(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, TIMED)
    words = ["compare", "--config", str(path), "--base", "loops=1", "--head", "loops=2"]
    assert main([*words, "--markdown", str(tmp_path / "no" / "such.md")]) == results.DID_NOT_RUN
    assert main([*words, "--jobs", "0"]) == results.DID_NOT_RUN

    def stumbles(*_):
        raise RuntimeError("a fault of its own")

    monkeypatch.setattr(timing, "run", stumbles)
    assert main(words) == results.DID_NOT_RUN
    assert "a fault of its own" in capsys.readouterr().err


def test_exit_codes():
    assert results.exit_code([]) == 0 and results.exit_code(FOUND[2:]) == 0
    assert (results.exit_code(FOUND[:1]), results.exit_code(FOUND[1:]), results.exit_code(FOUND)) == (1, 2, 3)


def test_markdown():
    text = report.markdown(FOUND)
    assert "| slower | counts | `a\\|b` | 10 -> 20 instructions <&> |" in text and "`e`" not in text
    assert "1 slower, 1 did not run, 1 skipped, 1 same" in text
    assert "nothing is slower" in report.markdown(FOUND[3:]).lower()


def test_junit():
    suites = {suite.get("name"): suite for suite in ElementTree.fromstring(report.junit(FOUND).encode())}
    assert suites["counts"].get("failures") == "1" and suites["time"].get("errors") == "1" and suites["time"].get("skipped") == "1"
    assert [case[0].tag for case in suites["time"]] == ["error", "skipped", "system-out"]
    assert suites["counts"][0].get("name") == "a|b" and "\x00" not in report.junit(FOUND)


def test_reports_are_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    report.write(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        report.write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.md"]
