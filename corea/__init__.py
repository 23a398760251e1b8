"""corea: a small model that knows when it is right, and a cascade that trusts it only then.

The names of `__all__` are loaded when they are first used: `import corea` loads nothing heavy.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from corea.cascade import Cascade, replay, sweep
    from corea.costs import Price, PriceList
    from corea.evaluation import evaluate
    from corea.grader import Grader, grade_one
    from corea.grpo import GRPOSettings, train, training_set
    from corea.metrics import auroc, ece, reliability
    from corea.parser import Response, parse
    from corea.policies import Policy, calibrate
    from corea.questions.base import Question
    from corea.questions.load import load_jsonl
    from corea.records import read_records, write_records
    from corea.rewards import RewardSpec, confidence_reward, correctness_reward, format_reward
    from corea.serving.client import Server

__version__ = "0.1.0"
_MODULES = {
    "cascade": ("Cascade", "replay", "sweep"),
    "costs": ("Price", "PriceList"),
    "evaluation": ("evaluate",),
    "grader": ("Grader", "grade_one"),
    "grpo": ("GRPOSettings", "train", "training_set"),
    "metrics": ("auroc", "ece", "reliability"),
    "parser": ("Response", "parse"),
    "policies": ("Policy", "calibrate"),
    "questions.base": ("Question",),
    "questions.load": ("load_jsonl",),
    "records": ("read_records", "write_records"),
    "rewards": ("RewardSpec", "confidence_reward", "correctness_reward", "format_reward"),
    "serving.client": ("Server",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_EXTRAS = {
    "train": ("trl", "train"),
    "training_set": ("datasets", "train"),
    "Server": ("openai", "serve"),
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"corea.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'corea' has no attribute {name!r}")
    package, extra = _EXTRAS.get(name, (None, None))
    if package and find_spec(package) is None:
        raise ImportError(f'corea.{name} needs {package}: pip install "corea[{extra}]"')
    return getattr(import_module(f"corea.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__", *(name for name in _MODULES if "." not in name)]
