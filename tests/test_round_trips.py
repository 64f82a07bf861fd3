"""Random sequences of verbs, with kills, full disks, set clocks and faults of Kaggle: nothing lost, nothing twice."""

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from kaggle_stand_in import KEY
from kaggle_stand_in.kills import Trap
from round_trips import PLAYED, PREDICT, SPELT, World

ODD = [b"[" * 10_000, b'{"ref": "t', b"[]", b'{"error": {"code": 429}}', b'{"error": 5}', b"{}",
       b'{"versionNumber": 1.5}',
       b'{"versionNumber": "3"}', b'{"ref": -1}', b"null"]  # fmt: skip
DEEDS = "SaveKernel|CreateSubmission|CreateDataset|CreateDatasetVersion"
LOOKS = "GetKernel|ListSubmissions|GetSubmission|ListDatasetFiles|GetDatasetStatus|GetKernelSessionStatus"
MORE = "ListKernels|GetAcceleratorQuotaStatistics|GetSubmissionLimits|ListKernelSessionOutput|DownloadDataset"
FILES = "GET /files/.*|PUT /upload/.*"
KINDS = ["cut", "cut_after", "hang", "hang_after", "html", "html_after", "429", "500", "500_after", "403", "404", "odd",
         "odd_after"]  # fmt: skip

FAN_OUT = ["push", "train", "--fan-out", "folds", "--set", "folds=2", "train_folds=[0,1]"]
LEAKS = {
    "push": ["push", "train"],
    "fan_out": FAN_OUT,
    "submit": ["submit", PREDICT, "--message", KEY],
    "upload": ["upload"],
}
faults = st.lists(
    st.tuples(st.sampled_from([DEEDS, DEEDS, LOOKS, MORE, FILES]), st.sampled_from(KINDS), st.integers(0, 3),
              st.sampled_from([1, 1, 2, 9]), st.sampled_from(ODD)),
    max_size=2,
)  # fmt: skip
traps = st.one_of(st.just((0, "kill")), st.tuples(st.integers(1, 60), st.sampled_from(["kill", "kill_after", "full"])))
waits = st.sampled_from([0, 0, 20, 100, 700])


class RoundTrips(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World()

    def teardown(self):
        try:
            self.world.check()
        finally:
            self.world.closing.close()

    def do(self, verb, faults, trap, wait):
        world = self.world
        world.history += " ".join(verb)
        for method, kind, after, times, odd in faults:
            how = {"body": odd} if kind.startswith("odd") else {}
            if kind[:3].isdigit():
                how, kind = {"status": int(kind[:3])}, "http" + kind[3:]
            world.kaggle.fault(method, kind.replace("odd", "bytes"), times, after, **how)
        world.run(verb, Trap(*trap))
        world.kaggle.faults.clear()
        world.time += wait
        assert not world.wrong, world.wrong

    @rule(seed=st.integers(1, 2), more=st.sampled_from([[], [], ["--beside"], ["--dry-run"]]), faults=faults,
          trap=traps, wait=waits)  # fmt: skip
    def push(self, seed, more, faults, trap, wait):
        self.do(["push", "train", "--set", f"seed={seed}", *more], faults, trap, wait)

    @rule(faults=faults, trap=traps, wait=waits)
    def fan_out(self, faults, trap, wait):
        self.do(FAN_OUT, faults, trap, wait)

    @precondition(lambda self: self.world.names(fanned_out=True))
    @rule(faults=faults, trap=traps, wait=waits, data=st.data())
    def go_on(self, faults, trap, wait, data):
        name = data.draw(st.sampled_from(self.world.names(fanned_out=True)))
        self.do(["push", "train", "--continue", name], faults, trap, wait)

    @precondition(lambda self: self.world.names() or self.world.names(fanned_out=True))
    @rule(faults=faults, trap=traps, wait=waits, data=st.data())
    def fetch(self, faults, trap, wait, data):
        names = self.world.names() + self.world.names(fanned_out=True)
        self.do(["fetch", data.draw(st.sampled_from(names))], faults, trap, wait)

    @rule(more=st.sampled_from([[], [], ["--again"], ["--dry-run"]]), faults=faults, trap=traps, wait=waits)
    def submit(self, more, faults, trap, wait):
        self.do(["submit", PREDICT, *more], faults, trap, wait)

    @rule(name=st.sampled_from(["a.h5", "b.h5"]), faults=faults, trap=traps, wait=waits)
    def upload(self, name, faults, trap, wait):
        self.do(["upload", str(self.world.root / name)], faults, trap, wait)

    @rule(refresh=st.sampled_from([[], ["--refresh"]]), faults=faults, trap=traps, wait=waits)
    def table(self, refresh, faults, trap, wait):
        self.do(["runs", *refresh], faults, trap, wait)

    @rule(spelt=st.sampled_from(SPELT), verb=st.sampled_from(["push", "fan_out", "submit", "upload"]))
    def leak(self, spelt, verb):
        self.world.leak = spelt
        self.do(LEAKS[verb] + ([str(self.world.root / "secret.h5")] if verb == "upload" else []), [], (0, "kill"), 0)
        self.world.leak = ""

    @rule(late=st.sampled_from([0, 0, 90, 400]), error=st.sampled_from([0, -86_400, 86_400]))
    def clocks(self, late, error):
        self.world.kaggle.late, self.world.clock_error = late, error

    @rule(outcome=st.sampled_from(["COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"]), suffix=st.sampled_from(["", "-2"]),
          altered=st.sampled_from(["", "", "competitionDataSources", "isPrivate", "enableGpu"]))  # fmt: skip
    def moods(self, outcome, suffix, altered):
        world = self.world
        world.outcome, world.kaggle.suffix, world.altered = outcome, suffix, {altered} - {""}
        world.kaggle.dropped = world.altered & {"competitionDataSources"}
        world.kaggle.changed = dict.fromkeys(world.altered - world.kaggle.dropped, False)


def play(count, steps, number):
    """Plays so many sequences of so many steps, by a seed; returns what happened in them."""
    PLAYED.clear()
    run_state_machine_as_test(
        seed(number)(type("Seeded", (RoundTrips,), {})),
        settings=settings(
            max_examples=count, stateful_step_count=steps, database=None, deadline=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        ),
    )  # fmt: skip
    names = {"verb": "commands", "kill": "kills", "full": "full disks", "secret": "secrets refused"}
    told = ", ".join(f"{PLAYED[name]:,} {words}" for name, words in names.items())
    print(f"\nseed {number}: {count:,} sequences, {told}; nothing lost, nothing done twice, no key out")
    return PLAYED


def test_a_hundred_sequences_lose_nothing_and_do_nothing_twice():
    play(100, steps=5, number=0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 5))
def test_two_thousand_sequences_lose_nothing_and_do_nothing_twice(number):
    """Each of four seeds plays a quarter of the sequences."""
    played = play(500, steps=12, number=number)
    assert played["kill"] >= 150 and played["full"] >= 150 and played["secret"] >= 150
