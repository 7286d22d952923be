"""Compare a Hugging Face folder with what the original model said: `tools.hub.publish` runs this.

    python -I check.py FOLDER PROBE.pt

Nothing of the repository is imported. The last line printed is one JSON object: for each
comparison the largest difference, of texts how many have other tokens.
"""

import json
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PLAIN = {"add_special_tokens": False}


def load(folder: str):
    """The folder's model in fp32; a weight that is missing, left over or misshapen is an error."""
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
    )
    wrong = {name: sorted(map(str, keys)) for name, keys in told.items() if keys}
    if wrong:
        raise ValueError(f"weights do not fit the code: {wrong}")
    return model.eval()


@torch.no_grad()
def main(folder: str, probe_path: str) -> None:
    probe = torch.load(probe_path, weights_only=True)
    tokens, model = probe["tokens_BT"], load(folder)
    whole = model(tokens, use_cache=False).logits
    found = {"logits": (whole - probe["logits_BTV"]).abs().max().item()}

    T = tokens.size(1)
    found["cached"] = 0.0
    for chunks in ([T // 2, T - T // 2], [7, 1, 1, T - 9], [T - 20, *[1] * 20]):
        cache, start = None, 0
        for chunk in chunks:
            end = start + chunk
            out = model(tokens[:, start:end], past_key_values=cache, use_cache=True)
            cache, difference = out.past_key_values, out.logits - whole[:, start:end]
            found["cached"] = max(found["cached"], difference.abs().max().item())
            start = end

    pad, text = 5, tokens[:1, : T - 5]
    padded = torch.cat([tokens[:1, :pad], text], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :pad] = 0
    # GPT-2's own class takes positions from the caller, as `generate` gives them.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    how = {"position_ids": positions} if model.config.model_type == "gpt2" else {}
    shifted = model(padded, attention_mask=mask, use_cache=False, **how).logits[:, pad:]
    found["left_padded"] = (shifted - whole[:1, : T - 5]).abs().max().item()

    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        reloaded = load(again)(tokens, use_cache=False).logits
    found["saved_and_loaded"] = (reloaded - whole).abs().max().item()

    how = dict(max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    prompt = tokens[:, : min(T - 20, 100)]
    texts = [model.generate(prompt, use_cache=cached, **how) for cached in (True, False)]
    found["greedy_tokens"] = int((texts[0] != texts[1]).sum())
    found["tokenizer_ids"] = None
    if "texts" in probe:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        given = zip(probe["texts"], probe["ids"], strict=True)
        wrong = [text for text, ids in given if tokenizer(text, **PLAIN).input_ids != ids]
        found["tokenizer_ids"] = len(wrong)
        if len(tokenizer) > model.config.vocab_size:
            raise SystemExit(f"{len(tokenizer)} tokens for {model.config.vocab_size} rows")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
