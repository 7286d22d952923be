"""A teacher's text as training rows: what a line may be, which tokens are scored, their order."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import quantize
import train_gpt
from baselines import train
from baselines.distill import COUNTED
from baselines.written_teachers import Continuations, encode, read
from tests.baselines.test_train import TINY, tiny, trainer_on

LINES = [
    {"prompt": [1, 2, 3], "continuation": [4, 5]},
    {"prompt": [9], "continuation": [8, 7, 6], "teacher": "any other key"},
    {"prompt": list(range(30)), "continuation": [1023, 0, 5]},
]


def write(path: Path, lines) -> str:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


@pytest.fixture
def cached(tmp_path) -> str:
    """The path of a file of three lines; the longest fills a row of 32 + 1 tokens."""
    return write(tmp_path / "teacher.jsonl", LINES)


def text_of(toy: Path, path: str, **changes) -> Continuations:
    hp = tiny("preln_53m", data_path=str(toy / "datasets/toy_sp1024"), teacher=path, **changes)
    return Continuations(hp)


def test_a_row_is_a_line_and_says_what_is_scored(toy, cached):
    """Ids are as written, then padding; a scored token carries the count of its whole batch."""
    text = text_of(toy, cached, train_batch_tokens=96, micro_batch_tokens=96)
    rows = text.rows(0, 3)
    assert rows.shape == (3, 33) and text.num_blocks == 3
    order = text.places(0, 3)
    assert sorted(order) == [0, 1, 2]
    for row, line in zip(rows.tolist(), (LINES[i] for i in order), strict=True):
        expected = [*line["prompt"], *(8 * COUNTED + token for token in line["continuation"])]
        assert row == expected + [0] * (33 - len(expected))
    assert text.rows(1, 2).tolist() == rows[1:].tolist()  # as another rank reads them


def test_every_line_comes_once_a_pass_in_an_order_of_the_seed(toy, cached):
    """Passes follow each other, differ, and begin anywhere: a place is one integer."""
    text = text_of(toy, cached)
    places = text.places(0, 30)
    passes = [places[i : i + 3] for i in range(0, 30, 3)]
    assert all(sorted(p) == [0, 1, 2] for p in passes) and len(set(map(tuple, passes))) > 1
    assert text.places(7, 9) == places[7:16]
    assert text_of(toy, cached).places(0, 30) == places
    assert text_of(toy, cached, seed=1).places(0, 30) != places


def test_text_is_encoded_as_one(toy):
    """The ids of both are those of the whole; a token across the border is of the continuation."""
    path = str(toy / "tokenizers/toy_1024_bpe.model")
    whole = "The old man said that the sea"
    for cut in range(1, len(whole)):
        prompt, continuation = encode([whole[:cut], whole[cut:]], path)
        joined, alone = prompt + continuation, encode([whole[:cut], ""], path)
        assert joined == sum(encode([whole, ""], path), []) and alone[1] == []
        assert prompt == alone[0][: len(prompt)]
        assert prompt == alone[0] or continuation[0] != alone[0][len(prompt)]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": [1], ', r"is not JSON \(.*\); write one object a line"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", 'must be an object with "prompt" and "continuation"'),
        ('{"prompt": [1]}', 'must be an object with "prompt" and "continuation"'),
        ('{"prompt": [1], "continuation": "sea"}', "must be two lists of token ids, or two texts"),
        ('{"prompt": 1, "continuation": 2}', "must be two lists of token ids, or two texts"),
        ('{"prompt": [], "continuation": [2]}', '"prompt" has no token; .*, or drop the line'),
        ('{"prompt": [1], "continuation": []}', '"continuation" has no token'),
        ('{"prompt": [1], "continuation": [1024]}', "holds 1024, which is no token id below VOCAB"),
        ('{"prompt": [-1], "continuation": [2]}', '"prompt" holds -1, .* must have one vocabulary'),
        ('{"prompt": [true], "continuation": [2]}', '"prompt" holds True, which is no token id'),
        ('{"prompt": [1.0], "continuation": [2]}', '"prompt" holds 1.0, which is no token id'),
        (json.dumps({"prompt": [0] * 32, "continuation": [1, 2]}),
         r"has 34 tokens, more than TRAIN_SEQ_LEN\+1=33; cut the prompt's beginning, or raise"),
        ('{"prompt": "a", "continuation": "b"}', "TOKENIZER_PATH=nowhere is no SentencePiece mod"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_a_row_is_refused(tmp_path, line, message):
    """By file, line, what is wrong and what to do; the lines before it were good."""
    path = tmp_path / "bad.jsonl"
    good = json.dumps(LINES[0]).encode()
    path.write_bytes(good + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match=rf"bad\.jsonl:2: .*{message}"):
        read(str(path), tiny("preln_53m", tokenizer_path="nowhere"))


def test_a_file_without_lines_is_refused(tmp_path):
    """It is no teacher."""
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty.jsonl has no lines"):
        read(str(tmp_path / "empty.jsonl"), tiny("preln_53m"))


# Training


def student_on(toy, folder, monkeypatch, system, path, **changes):
    """A trainer of a student that learns from a file, as the command would make it."""
    trainer = trainer_on(toy, folder, monkeypatch, system, teacher=path, **changes)
    trainer.text = trainer.system.TrainingText(trainer.hp)
    trainer.batches.text = trainer.text
    return trainer


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_is_the_mean_over_what_the_teacher_wrote(
    toy, cached, tmp_path, monkeypatch, parts
):
    """Half CE, half CE at the temperature, over continuations alone, however the step is split."""
    student = student_on(
        toy, tmp_path, monkeypatch, "preln_53m", cached, distill_alpha=0.25,
        train_batch_tokens=96, micro_batch_tokens=96 // parts,
    )  # fmt: skip
    student.model.eval()
    nats = []
    for line in LINES:
        n, tokens = len(line["prompt"]), torch.tensor(line["prompt"] + line["continuation"])
        with torch.no_grad():
            z = student.model(tokens[None, :-1])[0, n - 1 :]
        hard, soft = (F.cross_entropy(z / t, tokens[n:], reduction="sum") for t in (1.0, 2.0))
        nats.append((0.25 * hard + 0.75 * soft).item())
    rows, draws = student.text.rows(0, 3), student.model.train().loss
    assert not torch.equal(draws(rows), draws(rows))  # dropout acts
    student.model.eval()
    loss, norm = student.train_step(student.batches.get(0), progress=0.0)
    assert loss.item() == pytest.approx(sum(nats) / 8, rel=1e-5) and norm > 0


@pytest.mark.parametrize("system", ["gelu_d12", "yat_d12", "gpt2_124m", "preln_53m"])
def test_a_student_learns_what_its_teacher_wrote(toy, tmp_path, monkeypatch, system):
    """The loss falls from that of a guess; a resumed run has the losses of one never stopped."""
    written = [[(3 * n + k) % 9 for k in range(9)] for n in range(9)]
    lines = [{"prompt": [5, n], "continuation": ids} for n, ids in enumerate(written)]
    path = write(tmp_path / "teacher.jsonl", lines)
    how = dict(iterations=12, peak_lr=0.02, lr_decay_steps=12, train_batch_tokens=9 * 32)
    runs = []
    for stop in (12, 5):
        run = student_on(
            toy, tmp_path, monkeypatch, system, path, run_id=f"stop{stop}",
            micro_batch_tokens=9 * 32, **how,
        )  # fmt: skip
        losses = []
        while run.step < 12:
            if run.step == stop:
                state = run.state()
                run = student_on(toy, tmp_path, monkeypatch, system, path, run_id="again",
                                 micro_batch_tokens=9 * 32, **how)  # fmt: skip
                run.load(state)
                stop = None
            losses.append(run.train_step(run.batches.get(run.step), 0.5)[0].item())
        runs.append(losses)
    assert runs[0] == runs[1]
    assert runs[0][0] > 6.5 and runs[0][-1] < 0.75 * runs[0][0]


def test_a_run_starts_where_another_ended(toy, cached, tmp_path, monkeypatch):
    """START_FROM gives the first weights; the stage of distillation needs it and a teacher."""
    base = trainer_on(toy, tmp_path, monkeypatch, "preln_53m", run_id="base")
    for step in range(2):  # the first one's rate is 0
        base.train_step(base.batches.get(step), 0.5)
    base.save()
    start = str(base.run.checkpoint_path)
    stage = train.system_of("preln_53m_distilled")
    where = dict(data_path=base.hp.data_path, start_from=start, teacher=cached)
    hp = tiny("preln_53m_distilled", **where)
    assert isinstance(stage.TrainingText(hp), Continuations)
    model = stage.GPT(hp, torch.float32).init_weights(hp.seed)
    for name, p in base.model.named_parameters():
        assert torch.equal(p, model.get_parameter(name)), name
    for missing in ("start_from", "teacher"):
        with pytest.raises(ValueError, match="preln_53m_distilled needs START_FROM=<checkpoint.pt"):
            stage.TrainingText(dataclasses.replace(hp, **{missing: ""}))
    with pytest.raises(ValueError, match="START_FROM=.* holds .*set the sizes that it has"):
        stage.TrainingText(dataclasses.replace(hp, num_layers=3))
    with pytest.raises(ValueError, match="START_FROM=.* holds .*'preln_53m'"):
        train.system_of("gpt2_124m").TrainingText(tiny("gpt2_124m", **where))


def test_a_teacher_that_does_not_fit_is_refused_at_the_start(toy, tmp_path, monkeypatch):
    """Another vocabulary, a shorter context, a file that is no baseline's checkpoint."""
    teacher = trainer_on(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="teacher")
    teacher.save()
    path = str(teacher.run.checkpoint_path)
    system = train.system_of("preln_53m")
    hp = tiny("preln_53m", data_path=teacher.hp.data_path, teacher=path)
    assert len(system.TrainingText(hp).rows(0, 1)[0]) == 33
    for changes, message in [
        (dict(vocab_size=2000), "has 1024 tokens, VOCAB_SIZE is 2000; teacher and student must"),
        (dict(train_seq_len=64, train_batch_tokens=64, micro_batch_tokens=64),
         "reads 32 tokens, TRAIN_SEQ_LEN is 64; lower it to that"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"TEACHER=.* {message}"):
            system.TrainingText(dataclasses.replace(hp, **changes))
    artifact, (weights, settings) = tmp_path / "artifact.pgz", quantize.load_checkpoint(path)
    artifact.write_bytes(quantize.encode(weights, (quantize.PlanRow("*", 16),), settings))
    with pytest.raises(ValueError) as refused:  # torch would advise to load it with any code in it
        system.TrainingText(dataclasses.replace(hp, teacher=str(artifact)))
    assert str(refused.value) == f"{artifact} is not a checkpoint that loads; give a run's own"
    torch.save({"model": dict(teacher.model.named_parameters())}, tmp_path / "plain.pt")
    hp = dataclasses.replace(hp, teacher=str(tmp_path / "plain.pt"))
    with pytest.raises(ValueError, match="TEACHER=.*plain.pt must be the checkpoint.pt of a run"):
        system.TrainingText(hp)


def test_a_bad_line_ends_the_command_in_one_line(toy, tmp_path, monkeypatch):
    """The trainer reads its text from the system that it is given, before it makes a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_gpt, "prepare_data", lambda *_: "")
    path = write(tmp_path / "teacher.jsonl", [LINES[0], {"prompt": [1]}])
    settings = {name.upper(): str(int(value) if value is False else value)
                for name, value in TINY.items()}  # fmt: skip
    settings["DATA_PATH"] = str(toy / "datasets/toy_sp1024")
    settings["TOKENIZER_PATH"] = str(toy / "tokenizers/toy_1024_bpe.model")
    for name, value in {**settings, "TEACHER": path}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r'error: .*teacher\.jsonl:2: must be an object with "pro'):
        train.main(["preln_53m"])
    assert not (tmp_path / "logs").exists()


def test_the_stage_of_distillation_has_a_rate_that_stays():
    """15,000 steps at 3e-5, clipped to 1, half of each loss at temperature 2."""
    hp = train.Recipe(**train.RECIPES["preln_53m_distilled"])
    assert {train.lr_at(step, hp) for step in (0, 1, 7000, 14_999)} == {3e-5}
    assert (hp.iterations, hp.grad_clip_norm) == (15_000, 1.0)
    assert (hp.distill_alpha, hp.distill_temperature) == (0.5, 2.0)
    base = train.Recipe(**train.RECIPES["preln_53m"])
    assert hp.train_batch_tokens == base.train_batch_tokens == 6144 and math.isclose(
        hp.weight_decay, base.weight_decay
    )
