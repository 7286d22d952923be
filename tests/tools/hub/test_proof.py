"""Proof: a published model is the original one, for every client; a folder that is not is found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data import tokenizers
from tests.tools.hub.test_architectures import SMALL, checkpoint, own_modules
from tests.tools.hub.test_publish import ROOT, write
from tools.hub import proof, publish
from tools.hub.architectures import build_hub_model, load_hub_model, published_weights, read_model

REMOTE = ["gelu_d12", "yat_d12", "preln_53m", "golf", "pr334"]


def test_documents_begin_where_the_check_cuts(tmp_path):
    """Of the golf model, whose pairs and smear do not reach across a beginning."""
    tokens = proof.probe(checkpoint(tmp_path, "golf"), torch.float32)["tokens_BT"]
    T = tokens.size(1)
    assert (tokens[1, [3, 7, T // 2, T - 20, T - 1]] == 1).all() and (tokens[0] != 1).any()


def test_a_difference_over_its_limit_fails():
    """Status and text follow the limits; a comparison that is missing is an error."""
    fine = dict.fromkeys(proof.LIMITS, 0.0)
    assert proof.format_differences(fine)[1]
    for name, limit in proof.LIMITS.items():
        text, is_fine = proof.format_differences({**fine, name: 1.01 * limit + 1e-9})
        assert not is_fine and f"FAIL  {name}" in text
        assert not proof.format_differences({**fine, name: float("nan")})[1]
    with pytest.raises(KeyError):
        proof.format_differences({})


def test_a_folder_of_another_precision_is_refused(tmp_path):
    """The original has to be rounded as the folder was."""
    (tmp_path / "config.json").write_text('{"dtype": "float16"}')
    with pytest.raises(ValueError, match="config.json has dtype 'float16', must be one of float32"):
        proof.verify(tmp_path / "unread.pt", tmp_path)


# With transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Every small system as published, and transformers with a place of its own for their code."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    folder = tmp_path_factory.mktemp("hf")
    with own_modules(folder / "modules"):
        yield {system: write(folder, system) for system in SMALL}


def original(folder: Path) -> torch.nn.Module:
    weights, settings = read_model(folder.parents[1] / f"{folder.name}.pt")
    return load_hub_model(settings, weights)


def published(folder: Path, **options):
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.float32, "trust_remote_code": True, **options}
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(told.values()), told
    return model.eval()


def ids(T: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 61, (rows, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, *args, **options) -> torch.Tensor:
    out = model(*args, **options)
    return getattr(out, "logits", out)


@pytest.mark.parametrize("system", [name for name in SMALL if name != "gpt2_124m"])
def test_published_logits_are_the_original_ones(folders, system):
    """Bit for bit, with every weight found and none left over."""
    tokens = ids(64 if "preln" in system else 300, rows=2)
    ours, theirs = original(folders[system]), published(folders[system])
    assert torch.equal(logits(theirs, tokens), logits(ours, tokens))
    config = theirs.config
    tied = theirs.get_input_embeddings().weight is theirs.get_output_embeddings().weight
    assert tied == config.tie_word_embeddings == (system != "preln_53m_untied")


def test_gpt2_needs_no_code_of_ours(folders):
    """It is transformers' own class, and its logits are ours with the weights rounded to bf16."""
    model = published(folders["gpt2_124m"], trust_remote_code=False)
    ours = original(folders["gpt2_124m"]).bfloat16().float()
    assert type(model).__name__ == "GPT2LMHeadModel" and model.config.resid_pdrop == 0
    assert (logits(model, ids(64)) - logits(ours, ids(64))).abs().max() < 1e-4


def test_a_cache_of_transformers_holds_the_windows(folders):
    """After 300 tokens 128 keys in short layers; the long one keeps all and slides by its mask."""
    model = published(folders["gelu_d12"])
    cache = model(ids(300), use_cache=True).past_key_values
    assert [layer.keys.size(2) for layer in cache.layers] == [128, 128, 128, 300, 300]
    for start in range(300, 320):
        step = logits(model, ids(320)[:, start : start + 1], past_key_values=cache)
        assert (step - logits(model, ids(320)[:, : start + 1])[:, -1:]).abs().max() < 3e-5


@pytest.mark.parametrize("system", REMOTE)
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(num_beams=4, num_return_sequences=3),
        dict(prompt_lookup_num_tokens=3),
        dict(do_sample=True, top_k=20, num_return_sequences=2),
    ],
    ids=["greedy", "beams", "prompt lookup", "sampling"],
)
def test_text_is_the_same_with_a_cache(folders, system, options):
    """Greedy, beams, prompt lookup and sampling, past the short window, against no cache at all."""
    model = published(folders[system])
    prompt = ids(20).repeat(1, 2) if "preln" in system else ids(60).repeat(1, 2)
    fixed = dict(max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0) | options
    torch.manual_seed(0)
    cached = model.generate(prompt, use_cache=True, **fixed)
    fixed.pop("prompt_lookup_num_tokens", None)  # greedy by another way
    torch.manual_seed(0)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **fixed))
    assert cached.shape == (options.get("num_return_sequences", 1), prompt.size(1) + 20)


@pytest.mark.parametrize("system", ["gelu_d12", "golf"])
def test_a_model_can_assist_itself(folders, system):
    """Assisted decoding crops both caches past the short windows, and gives the greedy text."""
    model, assistant = published(folders[system]), published(folders[system])
    with torch.no_grad():  # wrong now and then
        mlp = assistant.model.blocks[3].mlp
        (mlp.proj if system == "golf" else mlp.c_proj).weight.mul_(0.5)
    fixed = dict(max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    greedy = model.generate(ids(140), **fixed)
    assert torch.equal(model.generate(ids(140), assistant_model=assistant, **fixed), greedy)


@pytest.mark.parametrize("system", REMOTE)
def test_padded_rows_get_the_text_of_unpadded_ones(folders, system):
    """Two prompts of different length, padded on the left, against each alone."""
    model = published(folders[system])
    fixed = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    short, long = ids(9, seed=1), ids(30, seed=2)
    padded = torch.cat([torch.cat([torch.zeros(1, 21, dtype=torch.long), short], 1), long])
    mask = torch.ones_like(padded)
    mask[0, :21] = 0
    shifted = logits(model, padded, attention_mask=mask)[0, 21:]
    assert (shifted - logits(model, short)[0]).abs().max() < 3e-5
    texts = model.generate(padded, attention_mask=mask, **fixed)
    assert torch.equal(texts[0, 21:], model.generate(short, **fixed)[0])
    assert torch.equal(texts[1], model.generate(long, **fixed)[0])


@pytest.mark.parametrize("system", REMOTE)
def test_text_goes_on_from_a_returned_cache(folders, system):
    """A second call with the first one's cache gives what one call gives."""
    model = published(folders[system])
    fixed = dict(do_sample=False, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True)
    first = model.generate(ids(30), max_new_tokens=10, **fixed)
    second = model.generate(
        first.sequences, max_new_tokens=10, past_key_values=first.past_key_values, **fixed
    )
    at_once = model.generate(ids(30), max_new_tokens=20, **fixed)
    assert torch.equal(second.sequences, at_once.sequences)


@pytest.mark.parametrize("system", ["gelu_d12", "golf"])
def test_a_padded_cache_remembers_its_padding(folders, system):
    """A later call without a mask does not take padding for text."""
    model, tokens = published(folders[system]), ids(30)
    mask = torch.ones_like(tokens)
    mask[:, :6] = 0
    cache = model(tokens[:, :25], attention_mask=mask[:, :25], use_cache=True).past_key_values
    without = logits(model, tokens[:, 25:], past_key_values=cache)
    assert (without - logits(model, tokens, attention_mask=mask)[:, 25:]).abs().max() < 3e-5


@pytest.mark.parametrize("system", ["golf", "pr334"])
@pytest.mark.parametrize("chunks", [[1, 1, 1, 157], [2, 158], [80, 1, 79], [81, 2, 77], [160]])
def test_a_golf_model_remembers_what_stands_before_a_chunk(folders, system, chunks):
    """Documents begin at, before and after each border; each token's two neighbours count."""
    model, ours = published(folders[system]), original(folders[system])
    tokens = ids(160, rows=3)
    tokens[1, [0, 1, 2, 3, 80, 81, 82, 83]] = 1
    tokens[2, [1, 3, 79, 159]] = 1
    all_logits, cache, start = logits(ours, tokens), None, 0
    assert torch.equal(logits(model, tokens, use_cache=False), all_logits)
    for chunk in chunks:
        with torch.no_grad():
            out = model(tokens[:, start : start + chunk], past_key_values=cache, use_cache=True)
        assert (out.logits - all_logits[:, start : start + chunk]).abs().max() < 3e-5
        cache, start = out.past_key_values, start + chunk


@pytest.mark.parametrize("system", ["gelu_d12", "golf"])
def test_rows_and_ends_of_a_cache_can_be_changed(folders, system):
    """Reorder, repeat, select, crop and reset act on keys, ids and padding alike."""
    model = published(folders[system])
    tokens, new = ids(40, rows=2), ids(3, rows=1, seed=5)
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0

    def after(change, past, valid, rows):
        cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
        change(cache)
        step = new.expand(rows, -1)
        got = logits(model, step, past_key_values=cache)
        valid = torch.cat([valid, torch.ones_like(step)], 1)
        uncached = logits(model, torch.cat([past, step], 1), attention_mask=valid)
        assert (got - uncached[:, -3:]).abs().max() < 3e-5

    order = torch.tensor([1, 1])
    after(lambda c: c.reorder_cache(order), tokens[order], mask[order], 2)
    after(lambda c: c.batch_select_indices(order[:1]), tokens[1:], mask[1:], 1)
    twice = torch.tensor([0, 0, 1, 1])
    after(lambda c: c.batch_repeat_interleave(2), tokens[twice], mask[twice], 4)
    after(lambda c: c.crop(-5), tokens[:, :-5], mask[:, :-5], 2)
    after(lambda c: c.reset(), tokens[:, :0], mask[:, :0], 2)


def test_learned_positions_end_with_the_context(folders):
    """The pre-LN model refuses to generate past its positions."""
    with pytest.raises(ValueError, match="position 64 is beyond the 64 learned positions"):
        published(folders["preln_53m"]).generate(ids(60), max_new_tokens=9, eos_token_id=None)


@pytest.mark.parametrize("system", REMOTE)
def test_a_new_model_has_initial_weights(folders, system):
    """One that is built from the config alone has those of `init_weights`, not torch's own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folders[system], trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert all(p.isfinite().all() for p in model.parameters())
    settings = SMALL[system]
    fresh = build_hub_model(settings).init_weights(0)
    state = published_weights(settings, dict(fresh.named_parameters()))
    for name, p in model.named_parameters():
        expected = state[name]
        if expected.unique().numel() <= 2 or "lambdas" in name:
            assert torch.equal(p, expected), name
        elif p.numel() > 300:
            assert p.std().item() == pytest.approx(expected.std().item(), rel=0.15), name


@pytest.mark.parametrize("system", [*REMOTE, "gpt2_124m"])
def test_half_precision_gives_finite_logits(folders, system):
    """Loaded in bf16, logits are near those in fp32; those of our code are fp32."""
    half, full = (published(folders[system], dtype=t) for t in (torch.bfloat16, torch.float32))
    seen = []
    for part in (half.get_submodule(name) for name, _ in half.named_modules() if "proj" in name):
        part.register_forward_hook(lambda part, args, x: seen.append(x.dtype))
    z = logits(half, ids(50))
    assert set(seen) == {torch.bfloat16}
    assert (z - logits(full, ids(50))).abs().mean() < 0.2
    assert z.isfinite().all() and (z.dtype == torch.float32 or system == "gpt2_124m")


@pytest.mark.parametrize("system", REMOTE)
def test_a_model_gives_what_is_asked_of_it(folders, system):
    """The last logits alone, a cache unless there should be none, other embeddings."""
    model, tokens = published(folders[system]), ids(40, rows=2)
    with torch.no_grad():
        full, last = model(tokens), model(tokens, logits_to_keep=3)
    assert last.logits.shape == (2, 3, 61)
    assert (last.logits - full.logits[:, -3:]).abs().max() < 1e-5
    assert full.past_key_values.get_seq_length() == 40
    assert model(tokens, use_cache=False).past_key_values is None
    model.config.use_cache = False
    assert model(tokens).past_key_values is None
    some = torch.tensor([3, 7])
    assert (model(tokens, logits_to_keep=some).logits - full.logits[:, some]).abs().max() < 1e-5
    model.resize_token_embeddings(69)
    with torch.no_grad():
        grown = model(tokens + 8).logits  # ids up to 68
        assert grown.shape == (2, 40, 69) and model.config.vocab_size == 69
        assert (model(tokens).logits[..., :61] - full.logits).abs().max() < 1e-5
    other = torch.nn.Embedding(61, 48)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other


# What verifying must find: a line of the published code, what it is made, and what then differs.
SPOILT = {
    "places that the cache moves": (
        "[None] + past",
        "[None] + past + (past > 0)",
        "cached",
    ),
    "padding that is read": (
        " * is_text",
        " + 0 * is_text",
        "left_padded",
    ),
    "documents that see each other": (
        "position_ids == shifted(position_ids, 0) + 1",
        "position_ids == position_ids",
        "packed",
    ),
    "embeddings without their tokens": (
        "torch.where(is_row, tokens_BT, VIRTUAL)",
        "torch.full_like(tokens_BT, VIRTUAL)",
        "embeddings",
    ),
    "attention that is none where it is written out": (
        "        scores = scores + attention_mask",
        "        scores = scores * 1",
        "eager_attention",
    ),
    "noise that checkpointing draws anew": (
        "        return norm((x + second) / 2)",
        "        return norm((x + second) / (2 + self.blocks[0].gradient_checkpointing * second))",
        "checkpointing",
    ),
    "weights that are not saved": (
        "    model_class = GolfGPTModel\n",
        "    model_class = GolfGPTModel\n\n"
        "    def save_pretrained(self, where):\n"
        "        self.model.skip_weights.data += 1\n"
        "        super().save_pretrained(where)\n"
        "        self.model.skip_weights.data -= 1\n\n",
        "saved_and_loaded",
    ),
    "another text without a cache": (
        "        loss = None\n",
        "        import inspect\n"
        "        frames = {frame.function for frame in inspect.stack()}\n"
        "        logits = -logits if '_sample' in frames and not past_key_values else logits\n"
        "        loss = None\n",
        "greedy_tokens",
    ),
}


@pytest.mark.parametrize("fault", [None, *SPOILT])
def test_verifying_finds_a_folder_that_is_wrong(folders, tmp_path, capsys, monkeypatch, fault):
    """Each comparison fails for a folder that is wrong in that, and none as published."""
    from tools.hub.remote_code import check

    out = tmp_path / f"folder_{len(fault or '')}"
    shutil.copytree(folders["golf"], out)
    failing = None
    if fault:
        line, replacement, failing = SPOILT[fault]
        texts = {path: path.read_text() for path in out.glob("*_gpt.py")}
        (path,) = [path for path, text in texts.items() if line in text]
        assert texts[path].count(line) == 1
        path.write_text(texts[path].replace(line, replacement))
    source = folders["golf"].parents[1] / "golf.pt"
    torch.save(proof.probe(source, torch.float32), tmp_path / "probe.pt")
    slow = {"exported", "static_cache_tokens"}  # seconds each; the slow tests take them all
    quick = [compare for compare in check.COMPARISONS if compare.__name__ not in slow]
    monkeypatch.setattr(check, "COMPARISONS", quick)
    check.main(str(out), str(tmp_path / "probe.pt"))
    differences = json.loads(capsys.readouterr().out.splitlines()[-1])
    failed = {
        name
        for name, difference in differences.items()
        if difference is not None and not difference <= proof.LIMITS[name]
    }
    assert failing in failed if fault else not failed


def test_verifying_refuses_weights_that_do_not_fit_the_code(folders, tmp_path):
    """One that the code asks for and the file lacks would be random."""
    from tools.hub.remote_code import check

    out = tmp_path / "folder_more"
    shutil.copytree(folders["golf"], out)
    code = (out / "modeling_golf_gpt.py").read_text()
    line = "        num_skips = "
    more = code.replace(line, "        self.smear_2 = SmearGate()\n" + line, 1)
    (out / "modeling_golf_gpt.py").write_text(more)
    with pytest.raises(ValueError, match="weights do not fit the code: .*smear_2"):
        check.load(str(out))


@pytest.mark.parametrize("system", REMOTE)
def test_labels_give_the_mean_loss_of_the_next_tokens(folders, system):
    """Shifted inside, -100 left out, divided by num_items_in_batch where a trainer gives that."""
    model, tokens = published(folders[system]), ids(40)
    total = original(folders[system]).loss(tokens).item()
    assert model.loss_type == "ForCausalLM"  # else transformers guesses, with a warning
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss.item() == pytest.approx(total / 39, rel=1e-5)
        halved = model(tokens, labels=tokens, num_items_in_batch=78).loss.item()
        assert halved == pytest.approx(total / 78, rel=1e-5)
        masked = torch.where(torch.arange(40) < 20, -100, tokens)
        z = logits(model, tokens)[0, 19:-1]
        last_20 = torch.nn.functional.cross_entropy(z, tokens[0, 20:]).item()
        assert model(tokens, labels=masked).loss.item() == pytest.approx(last_20, rel=1e-5)
        assert len(model(tokens, labels=tokens, return_dict=False)) == 3


def test_tables_that_others_store_are_ignored(folders, tmp_path):
    """A file that holds upstream's rope_cos and rope_sin loads without a word."""
    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    folder = tmp_path / "with_tables"
    subprocess.run(["cp", "-r", str(folders["gelu_d12"]), str(folder)], check=True)
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors |= {f"model.rope_{part}": torch.zeros(1, 2560, 1, 6) for part in ("cos", "sin")}
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(
        logits(published(folder), ids(20)), logits(original(folders["gelu_d12"]), ids(20))
    )


def test_the_names_of_the_original_code_are_read(folders, tmp_path):
    """Of preln_53m: `mlp` for `ff`, and a head within the trunk; ours stay ours when saved."""
    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    folder, model = tmp_path / "theirs", published(folders["preln_53m"])
    subprocess.run(["cp", "-r", str(folders["preln_53m"]), str(folder)], check=True)
    tensors = safetensors.load_file(folder / "model.safetensors")
    theirs = {name.replace(".ff.", ".mlp."): w for name, w in tensors.items()}
    theirs["transformer.lm_head.weight"] = tensors["transformer.token_embedding.weight"].clone()
    safetensors.save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(published(folder), ids(20)), logits(model, ids(20)))
    model.save_pretrained(tmp_path / "ours")
    assert set(safetensors.load_file(tmp_path / "ours/model.safetensors")) == set(tensors)


@pytest.mark.parametrize("system, lacking", [("gelu_d12", "smear_lambda"), ("golf", "smear.gate")])
def test_only_what_a_file_lacks_gets_initial_weights(folders, tmp_path, system, lacking):
    """Of a file without the smear's weight all other weights are kept as they are."""
    from transformers import AutoModelForCausalLM

    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    folder = tmp_path / "lacking_it"
    subprocess.run(["cp", "-r", str(folders[system]), str(folder)], check=True)
    tensors = safetensors.load_file(folder / "model.safetensors")
    del tensors[f"model.{lacking}"]
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    state = model.state_dict()
    assert not state.pop(f"model.{lacking}").any()
    assert all(torch.equal(state[name], w) for name, w in tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("system", list(SMALL))
def test_a_folder_is_verified_in_a_fresh_process(folders, system, capsys, tmp_path):
    """`--verify` finds no difference over its limit, and one where a weight was changed."""
    source, folder = folders[system].parents[1] / f"{system}.pt", folders[system]
    assert publish.main([str(source), "--verify", str(folder), "--json"]) == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert set(differences) == set(proof.LIMITS) and differences["tokenizer_ids"] is None
    spoilt = torch.load(source)
    next(w for w in spoilt["model"].values() if w.ndim == 2)[:30] *= 1.01
    torch.save(spoilt, tmp_path / "spoilt.pt")
    assert publish.main([str(tmp_path / "spoilt.pt"), "--verify", str(folder)]) == 1
    assert "FAIL  logits" in capsys.readouterr().out


@pytest.mark.slow
def test_code_that_needs_ours_is_found_out(tmp_path, monkeypatch):
    """The fresh process finds no module of this repository, whatever PYTHONPATH says."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source, out = checkpoint(tmp_path, "preln_53m"), tmp_path / "out"
    publish.write_folder(source, out, None, None)
    with (out / "shared_gpt.py").open("a") as file:
        file.write("import quantize\n")
    with pytest.raises(ValueError, match="could not be loaded: .*quantize"):
        proof.verify(source, out)


@pytest.mark.slow
def test_tokens_are_verified_in_a_fresh_process(tmp_path, capsys):
    """A SentencePiece model comes along whole; a merge that is taken away is a difference."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    model = tmp_path / "m.model"
    source = checkpoint(tmp_path, "gelu_d12", {**SMALL["gelu_d12"], "vocab_size": 320})
    model.write_bytes(tokenizers.train_bpe(["the quick brown fox and the quick dog"] * 3, 290))
    out = tmp_path / "out"
    command = [str(source), "--json"]
    assert publish.main([*command, "--out", str(out), "--tokenizer", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]["tokenizer_ids"] == 0
    described = json.loads((out / "tokenizer.json").read_text())
    described["normalizer"] = None
    (out / "tokenizer.json").write_text(json.dumps(described))
    assert publish.main([*command, "--verify", str(out)]) == 1
    assert json.loads(capsys.readouterr().out)["differences"]["tokenizer_ids"] > 5


@pytest.mark.slow
def test_greedy_text_agrees_over_200_tokens(folders):
    """From 200 to 400 tokens: past the short windows and past the context."""
    model = published(folders["gelu_d12"])
    fixed = dict(max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0)
    texts = [model.generate(ids(200), use_cache=cached, **fixed) for cached in (True, False)]
    assert torch.equal(*texts)


@pytest.mark.parametrize("system", REMOTE)
def test_hidden_states_and_attentions_are_given(folders, system):
    """Of every layer, whatever the attention function; rows of weights add up to one."""
    model, tokens = published(folders[system]), ids(12, rows=2)
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, output_attentions=True)
        plain = logits(model, tokens)
    layers = model.config.num_hidden_layers
    assert len(out.hidden_states) == layers + 1 and len(out.attentions) == layers
    assert (out.logits - plain).abs().max() < 3e-5
    for weights in out.attentions:
        assert weights.shape == (2, 4, 12, 12)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 12))
        assert not weights.triu(1).any()


@pytest.mark.parametrize("system", REMOTE)
def test_packed_documents_do_not_see_each_other(folders, system):
    """Without and with a cache, in pieces, and behind padding: each is as it is alone."""
    model = published(folders[system])
    first, second = ids(20, seed=1), ids(13, seed=2)
    row = torch.cat([first, second], 1)
    positions = torch.cat([torch.arange(20), torch.arange(13)])[None]
    alone = torch.cat([logits(model, first), logits(model, second)], 1)
    for use_cache in (False, True):
        together = logits(model, row, position_ids=positions, use_cache=use_cache)
        assert (together - alone).abs().max() < 3e-5
    cache = None
    for start, end in ((0, 9), (9, 20), (20, 21), (21, 33)):
        with torch.no_grad():
            out = model(
                row[:, start:end],
                position_ids=positions[:, start:end],
                past_key_values=cache,
                use_cache=True,
            )
        cache = out.past_key_values
        assert (out.logits - alone[:, start:end]).abs().max() < 3e-5
    padded = torch.cat([ids(4), row], 1)
    mask = torch.ones_like(padded)
    mask[:, :4] = 0
    places = torch.cat([torch.zeros(1, 4, dtype=torch.long), positions], 1)
    behind = logits(model, padded, attention_mask=mask, position_ids=places)
    assert (behind[:, 4:] - alone).abs().max() < 3e-5


def test_embeddings_of_no_token_are_virtual(folders):
    """Rows of the embedding are found bit for bit; another vector has no entry in a table."""
    code = sys.modules[type(published(folders["golf"])).__mro__[1].__module__]
    table = torch.randn(50, 8)
    table[7] = table[3]  # of equal rows either will do
    tokens = torch.tensor([[0, 3, 49, 7]])
    nearest = code.tokens_of(table[tokens], table)
    assert torch.equal(table[nearest], table[tokens])
    strange = table[tokens].clone()
    strange[0, 1, 0] += 1e-6
    assert code.tokens_of(strange, table)[0, 1] == code.VIRTUAL


def test_numbers_of_documents_are_those_of_the_docstring(folders):
    """Positions that start again, and padding."""
    code = sys.modules[type(published(folders["golf"])).__mro__[1].__module__]
    none_yet = torch.zeros(1, dtype=torch.long)
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    assert code.number_documents(positions, None, none_yet).tolist() == [[1, 1, 1, 2, 2]]
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    places = torch.tensor([[0, 0, 0, 1, 2]])
    assert code.number_documents(places, mask, none_yet).tolist() == [[0, 0, 1, 1, 1]]
    assert code.number_documents(positions, None, none_yet + 4).tolist() == [[5, 5, 5, 6, 6]]
