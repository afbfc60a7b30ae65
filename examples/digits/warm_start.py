"""Train the warm-start model: supervised, on scenes composed on the fly from the train digits only.

First the vision tower learns, cell by cell, which digit a cell holds and where its ink is. Then the language model
learns to answer from its features, in mixed styles (see styles.py). At last it is tuned on the answers of hasty
people, in the demanded style. The held-out numbers in the log come from digits never trained on.

Example: ``python examples/digits/warm_start.py --output-dir examples/digits/model | tee warm_start.log``
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from compose import CELL_PIXELS, COMPOSERS, Pool, Task, compose_task, load_pools, scale_box
from make_tokenizer import iterate_texts, train_tokenizer, write_tokenizer
from safetensors.torch import load_file, save_file
from styles import draw_first_response, draw_hasty_response
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from vlm import (
    IGNORED_LABEL,
    Batch,
    Toolkit,
    encode_batch,
    encode_images,
    grade_greedily,
    make_config,
    make_image_processor,
)

HERE = Path(__file__).resolve().parent
EMPTY_CELL = 10
"""Class of a cell without a digit."""
CELL_CLASSES = [EMPTY_CELL + 1, *[11, 10] * 4]
"""What the head tells of a cell: its digit, then hundreds and tens of x1, y1, x2, y2 on the 0..1000 grid."""
VISION_BATCH = {"digits_read": 12, "digits_count": 12, "digits_sum": 12, "digits_find": 28}
ANSWER_BATCHES = ({"digits_read": 6, "digits_count": 16, "digits_sum": 14}, {"digits_find": 14})
"""Scenes of one step: first the short answers, then the boxes, which are longer. Harder sources get more."""
BOX_LOSS_WEIGHT = 2
WARM_UP_SHARE = 0.05
LOG_EVERY_STEPS = 100
TUNING_WARM_UP_STEPS = 10
TUNING_EASY_SHARE = 0.1

DrawResponse = Callable[[np.random.Generator, Task], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast."""

    seed: int
    num_vision_steps: int
    num_answer_steps: int
    num_tuning_steps: int
    vision_learning_rate: float
    answer_learning_rate: float
    tuning_learning_rate: float


def compute_learning_rate(step: int, num_steps: int, peak: float) -> float:
    """Return a linear warm-up followed by a cosine to a twentieth of the peak."""
    warm_up = max(1, int(WARM_UP_SHARE * num_steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, num_steps - warm_up)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def take_step(optimizers: Sequence[torch.optim.Optimizer], learning_rate: float) -> None:
    """Apply the clipped gradients at a learning rate and clear them."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], 1.0)
    for group in groups:
        group["lr"] = learning_rate
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def make_optimizers(model: Qwen2_5_VLForConditionalGeneration) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the decoder layers and AdamW for embeddings and norms."""
    # Muon needs about a third of AdamW's steps until the model attends to the digit that is asked for.
    layers = [parameter for parameter in model.model.language_model.layers.parameters() if parameter.ndim == 2]
    is_layer = {id(parameter) for parameter in layers}
    others = [
        parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in is_layer
    ]
    return [
        torch.optim.Muon(layers, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def draw_tasks(
    rng: np.random.Generator, pool: Pool, source: str, num_tasks: int, easy_share: float = 0.0
) -> list[Task]:
    """Compose tasks of one source, some of them easy."""
    return [compose_task(rng, pool, source, easy=rng.random() < easy_share) for _ in range(num_tasks)]


def label_cells(tasks: Sequence[Task]) -> torch.Tensor:
    """Return the labels of every cell: its digit, then hundreds and tens of each coordinate of the digit's box."""
    labels = []
    for task in tasks:
        height, width = task.scene.pixels.shape[:2]
        cells = torch.full((height * width // CELL_PIXELS**2, len(CELL_CLASSES)), IGNORED_LABEL)
        cells[:, 0] = EMPTY_CELL
        for digit, cell, box in zip(task.scene.digits, task.scene.cells, task.scene.boxes, strict=True):
            units = scale_box(box, width, height)
            cells[cell] = torch.tensor([digit, *(part for unit in units for part in divmod(unit // 10, 10))])
        labels.append(cells)
    return torch.cat(labels)


def compute_cell_losses(outputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of the cells' digits and the mean one of the parts of their coordinates."""
    losses = [
        functional.cross_entropy(part, labels[:, column], ignore_index=IGNORED_LABEL)
        for column, part in enumerate(torch.split(outputs, CELL_CLASSES, dim=1))
    ]
    return losses[0], torch.stack(losses[1:]).mean()


def pretrain_vision(model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, pool: Pool, recipe: Recipe) -> None:
    """Teach the vision tower digits and boxes through a linear head that is then thrown away."""
    rng = np.random.default_rng([recipe.seed, 1])
    visual = model.model.visual
    head = nn.Linear(visual.config.out_hidden_size, sum(CELL_CLASSES))
    parameters = [*visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    start = time.monotonic()
    for step in range(recipe.num_vision_steps):
        tasks = [task for source in COMPOSERS for task in draw_tasks(rng, pool, source, VISION_BATCH[source])]
        images = encode_images(toolkit, tasks)
        features = visual(images["pixel_values"], grid_thw=images["image_grid_thw"]).pooler_output
        digit_loss, box_loss = compute_cell_losses(head(features), label_cells(tasks))
        torch.autograd.backward(digit_loss + BOX_LOSS_WEIGHT * box_loss)
        take_step([optimizer], compute_learning_rate(step, recipe.num_vision_steps, recipe.vision_learning_rate))
        if (step + 1) % LOG_EVERY_STEPS == 0:
            print(
                f"vision step {step + 1}: digit_loss={digit_loss.item():.3f} box_loss={box_loss.item():.3f} "
                f"seconds={time.monotonic() - start:.0f}",
                flush=True,
            )


def draw_batches(
    rng: np.random.Generator, toolkit: Toolkit, pool: Pool, easy_share: float, draw_response: DrawResponse
) -> Iterator[Batch]:
    """Yield the batches of one step."""
    for num_tasks in ANSWER_BATCHES:
        tasks = [task for source, num in num_tasks.items() for task in draw_tasks(rng, pool, source, num, easy_share)]
        responses = [draw_response(rng, task) for task in tasks]
        yield encode_batch(toolkit, tasks, responses)


def train_answers(
    model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, pools: tuple[Pool, Pool], recipe: Recipe
) -> None:
    """Teach the language model to answer in the mixed styles; the vision tower stays as it is."""
    model.model.visual.requires_grad_(False)
    rng = np.random.default_rng([recipe.seed, 2])
    optimizers = make_optimizers(model)
    start = time.monotonic()
    for step in range(recipe.num_answer_steps):
        losses = []
        # Scenes with few digits teach the model to read from the right cell at all; it then learns to choose.
        easy_share = max(0.1, 0.9 * (1 - 3 * step / recipe.num_answer_steps))
        for batch in draw_batches(rng, toolkit, pools[0], easy_share, draw_first_response):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**batch, use_cache=False).loss
            torch.autograd.backward(loss)
            losses.append(loss.item())
        take_step(optimizers, compute_learning_rate(step, recipe.num_answer_steps, recipe.answer_learning_rate))
        if (step + 1) % LOG_EVERY_STEPS == 0:
            print(
                f"answer step {step + 1}: short_loss={losses[0]:.3f} find_loss={losses[1]:.3f} "
                f"seconds={time.monotonic() - start:.0f}",
                flush=True,
            )
        if (step + 1) % (5 * LOG_EVERY_STEPS) == 0:
            report_grades(model, toolkit, pools[1], recipe.seed)


def tune_answers(
    model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, pools: tuple[Pool, Pool], recipe: Recipe
) -> None:
    """Tune the language model on the answers of hasty people."""
    model.train()
    model.model.visual.requires_grad_(False)
    rng = np.random.default_rng([recipe.seed, 4])
    optimizers = make_optimizers(model)
    start = time.monotonic()
    for step in range(recipe.num_tuning_steps):
        losses = []
        for batch in draw_batches(rng, toolkit, pools[0], TUNING_EASY_SHARE, draw_hasty_response):
            loss = model(**batch, use_cache=False).loss
            torch.autograd.backward(loss)
            losses.append(loss.item())
        share = min(1.0, (step + 1) / TUNING_WARM_UP_STEPS) * (1 - step / recipe.num_tuning_steps)
        take_step(optimizers, share * recipe.tuning_learning_rate)
    print(
        f"tuning step {recipe.num_tuning_steps}: short_loss={losses[0]:.3f} find_loss={losses[1]:.3f} "
        f"seconds={time.monotonic() - start:.0f}",
        flush=True,
    )
    report_grades(model, toolkit, pools[1], recipe.seed, num_tasks=256)


def report_grades(
    model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, pool: Pool, seed: int, num_tasks: int = 64
) -> None:
    """Print the greedy accuracy of each source on scenes of held-out digits."""
    model.eval()
    for number, source in enumerate(COMPOSERS):
        rng = np.random.default_rng([seed, 3, number])
        grades = grade_greedily(model, toolkit, draw_tasks(rng, pool, source, num_tasks))
        print(f"  held-out {source}: accuracy={grades.accuracy:.3f} content={grades.content:.3f}", flush=True)
    model.train()


def save_model(model: Qwen2_5_VLForConditionalGeneration, toolkit: Toolkit, model_dir: Path) -> None:
    """Write the weights as bfloat16, to be loaded as float32, and the image processor."""
    model.save_pretrained(model_dir)
    toolkit.image_processor.save_pretrained(model_dir)
    weights_path = model_dir / "model.safetensors"
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights_path).items()}
    save_file(weights, weights_path, metadata={"format": "pt"})


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=HERE / "model", help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and scenes")
    parser.add_argument("--data-seed", type=int, default=0, help="the seed of make_data.py: it splits the digits")
    parser.add_argument("--vision-steps", type=int, default=1500, help="steps of the vision tower alone")
    parser.add_argument("--answer-steps", type=int, default=2000, help="steps of the language model")
    parser.add_argument("--tuning-steps", type=int, default=80, help="steps of the language model on hasty answers")
    parser.add_argument("--tuned-model", type=Path, help="only tune the model in this folder, made without tuning")
    parser.add_argument("--vision-learning-rate", type=float, default=1.5e-3, help="peak rate of the first part")
    parser.add_argument("--answer-learning-rate", type=float, default=2e-3, help="peak rate of the second part")
    parser.add_argument("--tuning-learning-rate", type=float, default=1e-3, help="peak rate of the third part")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    return parser.parse_args()


def main() -> None:
    """Train and save the warm-start model."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    recipe = Recipe(
        seed=arguments.seed,
        num_vision_steps=arguments.vision_steps,
        num_answer_steps=arguments.answer_steps,
        num_tuning_steps=arguments.tuning_steps,
        vision_learning_rate=arguments.vision_learning_rate,
        answer_learning_rate=arguments.answer_learning_rate,
        tuning_learning_rate=arguments.tuning_learning_rate,
    )
    print(recipe, flush=True)
    pools = load_pools(arguments.data_seed)
    first_dir = arguments.tuned_model or arguments.output_dir
    if arguments.tuned_model is None:
        train_first(pools, recipe, first_dir)
    tokenizer = AutoTokenizer.from_pretrained(first_dir)
    toolkit = Toolkit(tokenizer=tokenizer, image_processor=make_image_processor())
    # From the file, so that tuning a model that was written gives the same.
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(first_dir, dtype=torch.float32)
    if recipe.num_tuning_steps:
        tune_answers(model, toolkit, pools, recipe)
        save_model(model, toolkit, arguments.output_dir)


def train_first(pools: tuple[Pool, Pool], recipe: Recipe, model_dir: Path) -> None:
    """Make tokenizer and model, and train what comes before the tuning."""
    write_tokenizer(train_tokenizer(iterate_texts(pools[0], recipe.seed, num_tasks=200)), model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    toolkit = Toolkit(tokenizer=tokenizer, image_processor=make_image_processor())
    model = Qwen2_5_VLForConditionalGeneration(make_config(tokenizer))
    num_visual = sum(parameter.numel() for parameter in model.model.visual.parameters())
    print(f"parameters={model.num_parameters()} of which visual={num_visual}", flush=True)
    pretrain_vision(model, toolkit, pools[0], recipe)
    train_answers(model, toolkit, pools, recipe)
    report_grades(model, toolkit, pools[1], recipe.seed, num_tasks=256)
    save_model(model, toolkit, model_dir)


if __name__ == "__main__":
    main()
