"""Grade the held-out answers of a finished run once more, without the verifiers: content and style, before and after.

Example: ``python examples/digits/regrade.py runs/digits``
"""

import argparse
from pathlib import Path

from grading import extract_content, grade_content, has_demanded_format

from tristream.config.load import load_run_file
from tristream.monitoring.queries.select import select
from tristream.monitoring.store.clickhouse import open_client

ANSWERS = """
    SELECT source, eval_step, text, ground_truth FROM rollouts FINAL WHERE run = {run:String} AND split = 'eval'
    ORDER BY eval_attempt DESC LIMIT 1 BY source, eval_step, number
"""
Answers = list[tuple[str, str]]
"""The text of an answer, and the truth as the row has it."""


def read_answers(run_folder: Path) -> dict[str, dict[int, Answers]]:
    """The held-out answers of a run by source and step."""
    settings = load_run_file(run_folder / "run.json", environment={})
    client = open_client(settings.monitoring, settings.run.folder)
    try:
        rows = select(client, ANSWERS, run=settings.run.id)
    finally:
        client.close()
    answers: dict[str, dict[int, Answers]] = {}
    for row in rows:
        by_step = answers.setdefault(row["source"], {})
        by_step.setdefault(row["eval_step"], []).append((row["text"], row["ground_truth"]))
    return answers


def grade(source: str, answers: Answers) -> tuple[float, float]:
    """Mean content and the share in the demanded style."""
    contents = [grade_content(source, text, extract_content(source, truth)) for text, truth in answers]
    styles = [has_demanded_format(source, text) for text, _ in answers]
    return sum(contents) / len(contents), sum(styles) / len(styles)


def main() -> None:
    """Print a line a source, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, help="such as runs/digits")
    answers = read_answers(parser.parse_args().run_folder)
    lines = {
        source: (*grade(source, by_step[min(by_step)]), *grade(source, by_step[max(by_step)]))
        for source, by_step in sorted(answers.items())
    }
    if len(lines) > 1:
        columns = zip(*lines.values(), strict=True)
        lines["mean"] = tuple(sum(column) / len(column) for column in columns)
    print(f"{'':14}{'content':>20}{'':8}{'style':>14}")
    for source, (content, style, last_content, last_style) in lines.items():
        change = last_content - content
        print(f"{source:14}{content:8.3f} -> {last_content:.3f} {change:+8.3f} {style:8.3f} -> {last_style:.3f}")


if __name__ == "__main__":
    main()
