"""`score`: the official metrics of any predictions file."""

from __future__ import annotations

import argparse
import json

from ..errors import ModelError
from ..finetune import glue, squad


def score(args: argparse.Namespace) -> None:
    """Print a line a metric, or JSON. GLUE in shares and correlations, SQuAD in percent."""
    if args.task in squad.VERSIONS:
        version = squad.VERSIONS[args.task]
        odds = None
        if args.null_odds:
            if version != "2.0":
                raise ModelError("--null-odds is for squad-v2.0")
            odds = squad.read_json(args.null_odds)
            if not isinstance(odds, dict) or not all(isinstance(v, int | float) for v in odds.values()):
                raise ModelError(f"{args.null_odds}: null odds are a JSON object of question id to number")
        questions, predictions = squad.read_questions(args.data), squad.read_predictions(args.predictions)
        values = squad.score(questions, predictions, version, odds, args.null_threshold)
        missing = sum(question.id not in predictions for question in questions)
    else:
        values, missing = (
            glue.score_predictions(glue.find_task(args.task, tuple(squad.VERSIONS)), args.data, args.predictions),
            0,
        )
    if args.json:
        print(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        print(f"{name:20}{value:12.4f}" if isinstance(value, float) else f"{name:20}{value:12}")
    if missing:
        print(f"{missing} questions without a prediction count as wrong")
