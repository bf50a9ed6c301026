"""A model of flashir for transformers. It needs `pip install 'flashir[torch]'`, and no network."""

import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

import flashir
from flashir.errors import ArtefactError
from flashir.reference.inputs import vocabulary
from flashir_torch.nn.extend import Extend

MEND = "was config.json edited? `flashir export --for hub` writes the folder again"


class FlashirConfig(PretrainedConfig):
    """The text of a model, `ir`, and the capacity of its caches, `max_len`."""

    model_type = "flashir"

    def __init__(self, ir="", max_len=None, **others):
        self.ir, self.max_len = ir, max_len
        super().__init__(**others)


class Past:
    """The states of sequences, how many tokens each row has, and how many columns of ids were read."""

    def __init__(self, states, seen, width):
        self.states, self.seen, self.width = states, seen, width

    def get_seq_length(self):
        """The number of columns read."""
        return self.width

    def reorder_cache(self, rows):
        """Let the beams continue these rows."""
        self.states, self.seen = [state[rows] for state in self.states], self.seen[rows]


class FlashirForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal model, with its parameters in `weights`."""

    config_class = FlashirConfig
    base_model_prefix = "weights"  # the parameters have the names that flashir gives them
    _is_stateful = True  # states cannot be cropped, so there is no assisted generation

    def __init__(self, config):
        super().__init__(config)
        model = flashir.loads(config.ir)
        if (size := vocabulary(model, model.inputs[0])) != config.vocab_size:
            raise ArtefactError(f"vocab_size is {config.vocab_size}, ir has a vocabulary of {size}", hint=MEND)
        self.weights = flashir.torch_module(model)
        self.__dict__["made"] = (None, None)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, output_loading_info=False, **kwargs):
        """The model of a folder, whose parameters are those of its ir: others would be random."""
        model, loaded = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if wrong := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"]}):
            raise ArtefactError(f"ir and model.safetensors differ in {', '.join(wrong)}", hint=MEND)
        return (model, loaded) if output_loading_info else model

    def _init_weights(self, module): ...

    def _prepare_cache_for_generation(self, *args, **kwargs): ...  # the first call makes the states

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        """The columns of ids that the states have not read."""
        ids = input_ids if past_key_values is None else input_ids[:, past_key_values.width :]
        passed = {name: kwargs.get(name) for name in ("attention_mask", "use_cache")}
        return {"input_ids": ids, "past_key_values": past_key_values, **passed}

    def extend(self, *arguments):
        """Read further tokens, by code for the parameters as they are now."""
        place = [(parameter.data_ptr(), parameter.dtype) for parameter in self.parameters()]
        if self.made[0] != place:
            self.__dict__["made"] = (place, Extend(self.weights, self.config.max_len))
        return self.made[1](*arguments)

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False, labels=None, **kwargs):
        """Logits of every token; with a cache, or padding on the left, of the last one."""
        padded_left = attention_mask is not None and not attention_mask[:, 0].all()
        if past_key_values is None and not use_cache and not padded_left:
            logits = self.weights(input_ids)
            loss = None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1])
            return CausalLMOutputWithPast(loss=loss, logits=logits)
        past, place = past_key_values, torch.arange(input_ids.shape[1], device=input_ids.device)
        if past is not None:
            places, past_width = past.seen[:, None] + place, past.width
            seen = past.seen + len(place)
        else:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            seen, past_width = mask.sum(1), 0  # padding on the left moves to the right
            input_ids = input_ids.gather(1, torch.sort(1 - mask, dim=1, stable=True).indices)
            places = torch.where(place < seen[:, None], place, -1)
        with torch.no_grad():
            logits, states = self.extend(input_ids, places, () if past is None else past.states)
        return CausalLMOutputWithPast(logits=logits, past_key_values=Past(states, seen, past_width + len(place)))
