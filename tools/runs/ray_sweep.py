"""Runs of `golf.py seeds` on a Ray cluster, the weak ones ended early by ASHA.

Ray Tune starts as many runs at once as the cluster has room for. Its scheduler ASHA compares runs
at rungs, each at twice the steps of the one below: with --asha 20 and 80 steps at 20, 40 and 80. A
run goes past a rung only if its validation is among the better half of those that were there
before it. Which run gets that far depends on the order of their arrival: this is a way to look at
many settings, not a measurement.

A run is the same process as without Ray, and its folder and its lines in the registry are the same.
The machines of a cluster have to share logs/ and the checkout.
"""

import os
import signal
import time
from pathlib import Path

import golf
from tools.runs.launchers import GRACE_SECONDS, SIGNALS, LocalProcess
from tools.runs.registry import in_use, read_run

# Ray is told by variables alone.
RAY_VARIABLES = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a run stands where its command was typed
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # there is none before the first validation
    "RAY_AIR_NEW_OUTPUT": "0",  # which does not heed verbose=0
    "RAY_USAGE_STATS_ENABLED": "0",
}
POLL_SECONDS = 0.5
HALF = 2  # one run in so many goes on
MEASURE = "val_bpb"


def import_tune():
    """Ray and its package Tune. Raises: ImportError with the install command."""
    os.environ.update(RAY_VARIABLES)
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise ImportError('--on ray needs Ray: pip install "ray[tune]"') from error
    return ray, tune


def validations(folder: Path) -> list[tuple[int, float]]:
    """(step, bpb) of every validation in a run's log, in order."""
    run = read_run(folder)
    if run is None:
        return []
    return [(point["step"], point[MEASURE]) for point in run.curve if MEASURE in point]


class WatchedProcess:
    """A run's process as Tune sees it: one result at each poll, with the next new validation."""

    def __init__(self, config: dict):
        os.chdir(config["stands_in"])
        self.folder = Path(config["folder"])
        self.told = 0  # validations
        self.result = {"step": 0}
        output = Path(config["output"])
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "ab") as file:
            self.process = LocalProcess(config["command"], file.fileno())

    def poll(self) -> dict:
        """The latest validation that was not told yet, or the last one again."""
        time.sleep(POLL_SECONDS)
        has_ended = self.process.done()  # asked first: what it wrote before that is read below
        points = validations(self.folder)
        # One at a time, so that each rung sees the validation at its own step.
        if self.told < len(points):
            step, bpb = points[self.told]
            self.result = {"step": step, MEASURE: bpb}
            self.told += 1
        is_over = has_ended and self.told == len(points)
        # Tune may change "done"; "ended_itself" stays as it is written here.
        return {**self.result, "done": is_over, "ended_itself": is_over}

    def end(self) -> None:
        """Let the trainer save and end; it is killed where that takes too long."""
        if self.process.done():
            return
        self.process.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while not self.process.done():
            if time.monotonic() > deadline:
                self.process.kill()
            time.sleep(POLL_SECONDS / 5)


def trainable(tune):
    """The class that Tune starts on some machine of the cluster, once for each run."""

    class TuneRun(tune.Trainable):
        def setup(self, config):
            self.watched = WatchedProcess(config["runs"][config["run_id"]])

        def step(self):
            return self.watched.poll()

        def save_checkpoint(self, folder):
            return {}  # the run has its own, in its folder

        def cleanup(self):
            self.watched.end()

    return TuneRun


class Ended:
    """Runs that Tune is through with: entered in the registry once their processes are gone.

    Tune tells of the end before it tells the process to stop. To wait there would be to wait for a
    process that does not know.
    """

    def __init__(self, runner):
        self.runner = runner
        self.results: dict = {}  # job -> the last result that Tune had of it

    def settle_free(self) -> None:
        """Enter those whose folders nobody uses any more."""
        for job in list(self.results):
            if not in_use(self.runner.logs / job.run_id):
                self.settle(job)

    def settle_all(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while self.results and time.monotonic() < deadline:
            self.settle_free()
            time.sleep(POLL_SECONDS / 5)
        for job in list(self.results):
            self.settle(job)

    def settle(self, job) -> None:
        result = self.results.pop(job)
        reason = self.runner.stop_reason()
        if not reason and not result.get("ended_itself"):
            bpb = result.get(MEASURE)
            reason = f"ASHA: bpb {bpb} at step {result.get('step')} is not in the better half"
        self.runner.settle(job, reason)


def train(runner, jobs: list) -> str:
    """Run the jobs; returns the reason for which everything ended early, or an empty text.

    runner is the Runner of tools.runs.seeds, whose registry, messages and caps hold here too.
    """
    ray, tune = import_tune()
    if not jobs:
        return ""
    import_path = {"PYTHONPATH": golf.child_environment()["PYTHONPATH"]}
    # Ray takes SIGTERM for itself, and would end without a word to the runs.
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ray.init(ignore_reinit_error=True, log_to_driver=False, runtime_env={"env_vars": import_path})
    for number, handler in handlers.items():
        signal.signal(number, handler)
    job_of = {job.run_id: job for job in jobs}
    configs = {}
    resumed = {}
    for job in jobs:
        command, resumed[job.run_id] = runner.prepare(job)
        configs[job.run_id] = {
            "command": command,
            "stands_in": str(Path.cwd()),
            "folder": str(runner.logs / job.run_id),
            "output": str(runner.logs / "ray" / f"{job.run_id}.out"),
        }

    ended = Ended(runner)

    class Registrar(tune.Callback):
        """Enters in the registry what Tune does."""

        def on_trial_start(self, iteration, trials, trial, **more):
            job = job_of[trial.config["run_id"]]
            runner.enter_launch(job, resumed[job.run_id])

        def on_trial_complete(self, iteration, trials, trial, **more):
            ended.results[job_of[trial.config["run_id"]]] = trial.last_result or {}

        def on_trial_error(self, iteration, trials, trial, **more):
            ended.results[job_of[trial.config["run_id"]]] = {"ended_itself": True}

        def on_step_end(self, iteration, trials, **more):
            ended.settle_free()

    class Caps(tune.Stopper):
        """Ends everything on Ctrl-C, and when time or money has run out."""

        def __call__(self, trial_id, result):
            return self.stop_all()

        def stop_all(self):
            return bool(runner.stop_reason())

    scheduler = None
    if runner.args.asha:
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="step",
            metric=MEASURE,
            mode="min",
            grace_period=runner.args.asha,
            max_t=max(job.settings["iterations"] for job in jobs),
            reduction_factor=HALF,
            stop_last_trials=False,  # one that came to its last step is still to be packed
        )
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    each = {"cpu": runner.args.gpus, "gpu": runner.args.gpus if has_gpus else 0}

    tuner = tune.Tuner(
        tune.with_resources(trainable(tune), each),
        param_space={"run_id": tune.grid_search(list(configs)), "runs": configs},
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(
            name=runner.args.name,
            storage_path=str((runner.logs / "ray").resolve()),
            callbacks=[Registrar()],
            stop=Caps(),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()
    ended.settle_all()
    return runner.stop_reason()
