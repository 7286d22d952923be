"""What the published models share: documents in a row, tokens in a cache, attention, two classes.

These models look at more than attention does: a token's embedding is mixed with that of the token
before it, and tables are looked up by token. So a call has to know two tokens before its own, and
where a document begins, as nothing may reach across that.

A row may hold several documents, as `DataCollatorWithFlattening` packs them: position_ids start
again at each. Documents are numbered from 1, and padding is number 0:

    position_ids    0 1 2 0 1          attention_mask  0 0 1 1 1
    document        1 1 1 2 2          document        0 0 1 1 1

Dimensions: B rows, T new tokens, S all tokens so far, W new tokens and up to two before them,
D hidden_size, H query heads, G key/value heads, E head_dim, V vocabulary.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.masking_utils import (
    create_causal_mask,
    create_sliding_window_causal_mask,
    packed_sequence_mask_function,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple, is_tracing, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

logger = logging.get_logger(__name__)

VIRTUAL = -1  # the id of an embedding that is no row of the table, as prompt tuning learns them
REACH = 2  # tokens before its own that a call looks at: a bigram, and the smear of it


# Rows of tokens -----------------------------------------------------------------------------------


@dataclass
class Row:
    """The new tokens of a call, those before them that it looks at, and where all of them stand."""

    tokens_BW: Tensor  # ids; VIRTUAL where there is none
    embeddings_BWD: Tensor  # as looked up, or as they were given
    begins_BW: Tensor  # nothing that may be mixed in stands before this token
    position_ids: Tensor  # (1 or B, T)
    length: int  # T
    masks: dict  # by window; None is the one without end

    @property
    def tokens_BT(self) -> Tensor:
        return self.tokens_BW[:, -self.length :]


def shifted(x: Tensor, first) -> Tensor:
    """At each place of (B, T) or (B, T, D) what stands one place before; `first` at the first.

    A slice would have T - 1 places, of which torch.export asks whether they are just one.
    """
    return F.pad(x, (1, -1) if x.ndim == 2 else (0, 0, 1, -1), value=first)


def tokens_of(embeddings_BTD: Tensor, table_VD: Tensor) -> Tensor:
    """The ids (B, T) of the rows that embeddings are, bit for bit; VIRTUAL for all others.

    Rows are found by a number that is made of their bits, because comparing each embedding with
    each row takes B*T*V*D steps.
    """
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[table_VD.element_size()]
    rng = torch.Generator().manual_seed(0)
    factors_D = torch.randint(1, 1 << 62, (table_VD.size(1),), generator=rng) | 1
    factors_D = factors_D.to(table_VD.device)

    def numbers(x: Tensor) -> Tensor:
        return (x.detach().contiguous().view(integers).long() * factors_D).sum(dim=-1)

    # Sums of 64-bit products wrap around alike for equal bits, and hardly ever for others; what
    # they find is compared once more.
    ordered_V, order_V = numbers(table_VD).sort()
    places_BT = torch.searchsorted(ordered_V, numbers(embeddings_BTD.to(table_VD.dtype)))
    tokens_BT = order_V[places_BT.clamp(max=len(order_V) - 1)]
    is_row = (table_VD[tokens_BT] == embeddings_BTD).all(dim=-1)
    if not is_tracing(is_row) and not is_row.all():
        logger.warning_once(
            "Some inputs_embeds are no rows of the embedding. They are taken for virtual tokens,"
            " which have no entry in a table that is looked up by token."
        )
    return torch.where(is_row, tokens_BT, VIRTUAL)


def positions_of(valid_BS, past, T: int, device) -> Tensor:
    """Positions (1 or B, T) of the last T tokens; padding on the left takes none.

    Attention sees differences alone, so that all places plus one number would do as well; but far
    from 0 the angles are coarser, and a padded row would not have quite the logits of one alone.
    """
    if valid_BS is None:
        return torch.arange(T, device=device)[None] + past
    # clamp: padding has position 0 like the first token, as learned positions need a row.
    return (valid_BS.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -T:]


def number_documents(position_ids: Tensor, valid_BS, highest_B: Tensor) -> Tensor:
    """Numbers (B, T) of the documents that new tokens are part of; 0 for padding.

    A document begins where position_ids do not go on by one. The first new token goes on with the
    last document so far, highest_B, unless its position is 0.
    """
    T = position_ids.size(1)
    is_first = torch.arange(T, device=position_ids.device) == 0
    goes_on = position_ids == shifted(position_ids, 0) + 1
    # No torch.where: onnxruntime has none for truth values.
    begins = (is_first & (position_ids == 0)) | ~(is_first | goes_on)
    is_text = torch.ones_like(begins) if valid_BS is None else valid_BS[:, -T:].bool()
    follows_text = (is_first & (highest_B[:, None] > 0)) | (~is_first & shifted(is_text, False))
    begins = begins & is_text & follows_text  # text after padding is no further document
    return (highest_B[:, None].clamp(min=1) + begins.cumsum(dim=-1)) * is_text


# The cache ----------------------------------------------------------------------------------------


def memory_layer(cache: Cache, layer: int) -> DynamicLayer | StaticLayer:
    """The layer of a cache that holds tokens and their documents instead of keys and values.

    It is one more than the model has. As a layer like the others it is reordered, cropped and
    repeated with them, in every kind of cache.
    """
    if cache.layer_class_to_replicate is not None:  # a cache that adds its layers by itself
        while len(cache.layers) <= layer:
            cache.layers.append(cache.layer_class_to_replicate())
    elif len(cache.layers) == layer:
        # A static cache stays compilable only if every layer of it has a fixed size.
        is_static = cache.is_compileable
        cache.layers.append(StaticLayer(cache.get_max_length()) if is_static else DynamicLayer())
    return cache.layers[layer]


def remembered_mask(memory, T: int) -> Tensor | None:
    """The attention_mask of a call without one, where the cache holds padding; else None."""
    if not isinstance(memory, DynamicLayer) or not memory.get_seq_length():
        return None
    is_text = memory.values[:, 0, :, 0] > 0
    if is_tracing(is_text) or is_text.all():
        return None
    return F.pad(is_text, (0, T), value=True)


def highest_document(memory, tokens_BT: Tensor) -> Tensor:
    """Number (B) of the last document in the cache, 0 where there is none yet."""
    if memory is None or not memory.is_initialized or not memory.values.numel():
        return torch.zeros_like(tokens_BT[:, 0])
    return memory.values[:, 0, :, 0].amax(dim=-1)


def remember(memory, past, tokens_BT: Tensor, documents_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Take in new tokens; returns ids and document numbers (B, S) of all so far.

    A cache that came with keys and values of no tokens, as prefix tuning makes it, is filled up
    with VIRTUAL.
    """
    if memory is None:
        return tokens_BT, documents_BT
    if isinstance(memory, DynamicLayer) and memory.get_seq_length() < past:
        virtual = tokens_BT.new_full(
            (len(tokens_BT), 1, past - memory.get_seq_length(), 1), VIRTUAL
        )
        memory.update(virtual, torch.ones_like(virtual))
    tokens, documents = memory.update(tokens_BT[:, None, :, None], documents_BT[:, None, :, None])
    return tokens[:, 0, :, 0], documents[:, 0, :, 0]


def neighbours(tokens_BS, documents_BS, past, T: int) -> tuple[Tensor, Tensor]:
    """The last T tokens and up to two before them, and which have nothing before them.

    past is the number of tokens before the last T: a tensor in a static cache.
    """
    # A tensor's value is not read, because that would wait for the device: two places are taken,
    # and those before the first token are marked.
    reach = min(REACH, past) if isinstance(past, int) else REACH
    places_W = torch.arange(-reach, T, device=tokens_BS.device) + past
    tokens_BW = tokens_BS[:, places_W.clamp(min=0)]
    documents_BW = documents_BS[:, places_W.clamp(min=0)]
    begins_BW = (documents_BW != shifted(documents_BW, -1)) | (places_W <= 0)
    # Of a virtual token in the cache no embedding is known that could be mixed in.
    is_unknown = (tokens_BW == VIRTUAL) & (places_W < past)
    return tokens_BW, begins_BW | shifted(is_unknown, False)


# Attention ----------------------------------------------------------------------------------------


def eager_attention(module, q, k, v, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention in plain PyTorch: (B, T, H, E), and the weights (B, H, T, S)."""
    k = k.repeat_interleave(module.num_key_value_groups, dim=1)
    v = v.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = q @ k.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    weights = F.dropout(weights, dropout)
    return (weights @ v).transpose(1, 2).contiguous(), weights


def attention_name(config, options: dict) -> str:
    """The attention function of a call: eager, which alone has weights, if they are asked for."""
    return "eager" if options.get("output_attentions") else config._attn_implementation


class SharedAttention(nn.Module):
    """What transformers' attention functions ask of a module, and the call of them."""

    def __init__(self, config, layer: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        self.sliding_window = config.windows[layer]

    def attend(self, q_BHTE, k_BGTE, v_BGTE, mask, past_key_values, dropout=0.0, **kwargs):
        """Of the new tokens to all so far: (B, T, H*E), and the weights where they are computed."""
        if past_key_values is not None:
            k_BGTE, v_BGTE = past_key_values.update(k_BGTE, v_BGTE, self.layer_idx)
        name = attention_name(self.config, kwargs)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        y, weights = attention(
            self,
            q_BHTE,
            k_BGTE,
            v_BGTE,
            mask,
            scaling=self.scaling,
            dropout=dropout if self.training else 0.0,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return y.flatten(2), weights


# Models -------------------------------------------------------------------------------------------


class SharedPreTrainedModel(PreTrainedModel):
    """What both classes of a system say about themselves."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    # A server with a cache of its own, as vLLM, hands a model keys and values but no tokens.
    _supports_attention_backend = False

    def parameter_names(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The module's own parameters by their names in the base model."""
        prefixes = (name for name, part in self.named_modules() if part is module)
        prefix = next(prefixes, "").removeprefix(self.base_model_prefix).removeprefix(".")
        own = module.named_parameters(recurse=False)
        return {f"{prefix}.{name}".removeprefix("."): p for name, p in own}

    def token_tables(self) -> list[tuple[nn.Module, str]]:
        """Tables that are looked up by token, but for the embedding: each one's owner and name."""
        return []

    def resize_token_embeddings(
        self, new_num_tokens=None, pad_to_multiple_of=None, mean_resizing=True
    ):
        """Every table that is looked up by token grows with the embedding."""
        embedding = super().resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        for owner, name in self.base_model.token_tables():
            grown = self._get_resized_embeddings(
                getattr(owner, name), embedding.num_embeddings, mean_resizing=mean_resizing
            )
            setattr(owner, name, grown)
        return embedding

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask, **kwargs):
        """`forward` makes all masks, because it also needs to know what is padding."""
        return attention_mask


class SharedModel:
    """Tokens to hidden states; a system adds `run(row, past_key_values, **kwargs)`."""

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        **kwargs,
    ):
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("forward needs one of input_ids and inputs_embeds")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        attention = attention_name(self.config, kwargs)
        row = self.read_row(
            input_ids, inputs_embeds, attention_mask, position_ids, past_key_values, attention
        )
        x = self.run(row, past_key_values=past_key_values, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)

    def read_row(
        self, tokens_BT, embeddings_BTD, attention_mask, position_ids, cache, attention: str
    ) -> Row:
        """Find each token's document and neighbours, and take the tokens into the cache.

        Raises: ValueError for an attention_mask of another length.
        """
        table = self.get_input_embeddings()
        if embeddings_BTD is None:
            embeddings_BTD = table(tokens_BT)
        else:
            tokens_BT = tokens_of(embeddings_BTD, table.weight)
        B, T = tokens_BT.shape
        past, memory = 0, None
        if cache is not None:
            past = cache.get_seq_length()
            memory = memory_layer(cache, self.config.num_hidden_layers)
        if attention_mask is None:
            attention_mask = remembered_mask(memory, T)
        valid_BS = (
            attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None
        )
        if valid_BS is not None and isinstance(past, int) and valid_BS.shape != (B, past + T):
            raise ValueError(
                f"attention_mask has shape {tuple(valid_BS.shape)}, must be {(B, past + T)}:"
                " one number for each token, cached ones included"
            )
        if position_ids is None:
            position_ids = positions_of(valid_BS, past, T, tokens_BT.device)

        highest_B = highest_document(memory, tokens_BT)
        documents_BT = number_documents(position_ids.expand(B, T), valid_BS, highest_B)
        # From here on the cache holds the new tokens; its keys and values follow layer by layer.
        tokens_BS, documents_BS = remember(memory, past, tokens_BT, documents_BT)
        tokens_BW, begins_BW = neighbours(tokens_BS, documents_BS, past, T)
        masks = {}
        for window in dict.fromkeys(self.config.windows):
            config = SimpleNamespace(sliding_window=window, _attn_implementation=attention)
            masks[window] = self.make_mask(
                config, embeddings_BTD, attention_mask, position_ids, cache, documents_BS
            )
        reach = tokens_BW.size(1) - T
        if reach:
            # Only ids were kept, so earlier embeddings are looked up again.
            earlier = table(tokens_BW[:, :reach].clamp(min=0)).to(embeddings_BTD.dtype)
            embeddings_BTD = torch.cat([earlier, embeddings_BTD], dim=1)
        return Row(tokens_BW, embeddings_BTD, begins_BW, position_ids, T, masks)

    def make_mask(self, config, x_BTD, attention_mask, position_ids, cache, documents_BS):
        """The mask of the layers with a window, in the form that their attention function takes.

        config names both. Layers have different windows, where transformers' own config knows one.
        """
        arguments = dict(
            config=config,
            inputs_embeds=x_BTD,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
            layer_idx=self.config.windows.index(config.sliding_window),
        )
        # Without a mask and a cache transformers itself sees where position_ids start again.
        if (attention_mask is not None or cache is not None) and not is_tracing(documents_BS):
            if (documents_BS > 1).any():
                arguments["and_mask_function"] = packed_sequence_mask_function(documents_BS)
        if config.sliding_window is None:
            return create_causal_mask(**arguments)
        return create_sliding_window_causal_mask(**arguments)


class SharedForCausalLM:
    """A base model of class `model_class`, and the head on top of it."""

    model_class: type

    def __init__(self, config):
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        setattr(self, self.base_model_prefix, self.model_class(config))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        out = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        # In half precision a softcapped logit has three digits: losses are computed in fp32.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        softcap = getattr(self.config, "final_logit_softcapping", None)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
