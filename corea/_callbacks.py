"""What watches a run from inside; apart from `grpo`, as transformers takes seconds to import."""

from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback

from corea._training_log import COMPLETE, METRICS, CollapseError, collapse, tidy_log
from corea.support import processes


class MarkWhole(TrainerCallback):
    """Leaves a mark in each checkpoint once all processes have written their part of it."""

    def on_save(self, args, state, control, **kwargs):
        processes.wait()
        if processes.rank() == 0:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class Watch(TrainerCallback):
    """Progress bar, and the alarm that stops a collapsed run."""

    def __init__(self, name: str, steps: int, show: bool):
        self.bar = tqdm(total=steps, desc=name, disable=not show, mininterval=5)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.bar.update(state.global_step - self.bar.n)
        shown = {METRICS[key]: value for key, value in logs.items() if key in METRICS}
        if "accuracy" in shown:  # not in the summary at the end
            self.bar.set_postfix({key: shown[key] for key in ("accuracy", "mean confidence")})
        if (reason := collapse(tidy_log(state.log_history, "run"))) is not None:
            raise CollapseError(f"stopped at step {state.global_step}: {reason}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
