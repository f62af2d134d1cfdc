"""An encoder of another architecture, which is not part of the package: one class and one entry of `FORMATS`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import bertwright
from bertwright.errors import UserError
from bertwright.files import read_json
from bertwright.models.checkpoints import load_pretraining_model, new_encoder, save_model
from bertwright.models.encoder import Encoder
from bertwright.models.heads import TaskModel
from bertwright.models.layouts import FORMATS, Format
from bertwright.recipe import ModelConfig
from bertwright.tasks.finetune import new_task_model
from bertwright.tasks.pretraining import pretrain
from bertwright.tasks.registry import find_task, load_task_model
from bertwright.train.engine import Engine


class Toy(Encoder):
    """Each layer mixes a token with the mean of all real tokens: one "head" of even attention."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_token_id: int = 0) -> None:
        super().__init__(config, vocab_size, pad_token_id)
        width = config.hidden_size
        self.token = nn.Embedding(vocab_size, width, padding_idx=pad_token_id)
        self.place = nn.Embedding(config.max_position_embeddings, width)
        self.segment = nn.Embedding(config.type_vocab_size, width)
        self.layers = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(config.num_hidden_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_hidden_layers))

    @property
    def token_embeddings(self) -> nn.Embedding:
        return self.token

    def _states(
        self, input_ids: Tensor, token_type_ids: Tensor, mask: Tensor | None, inputs_embeds: Tensor | None = None
    ) -> list[Tensor]:
        tokens = self.token(input_ids) if inputs_embeds is None else inputs_embeds
        places = self.place(torch.arange(input_ids.shape[1], device=input_ids.device))
        states = [tokens + places + self.segment(token_type_ids)]
        weights = (torch.ones_like(input_ids) if mask is None else mask).to(tokens.dtype)[:, :, None]  # (B, S, 1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = states[-1]
            mean = (hidden * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
            mixed = layer(torch.cat([hidden, mean.expand_as(hidden)], dim=-1))
            states.append(norm(hidden + torch.relu(mixed)))
        return states

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor | None = None,
        positions: int | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        return self._states(input_ids, token_type_ids, attention_mask, inputs_embeds)[-1][:, :positions]

    def hidden_states(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> list[Tensor]:
        return self._states(input_ids, torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids, None)

    def attention_maps(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        batch, seq = input_ids.shape
        return torch.full((batch, len(self.layers), 1, seq, seq), 1 / seq)

    def lowest(self, layers: int) -> list[nn.Module]:
        tables = [self.token, self.place, self.segment]
        return [*tables, *self.layers[:layers], *self.norms[:layers]]

    def matrices(self) -> list[nn.Parameter]:
        return [layer.weight for layer in self.layers if isinstance(layer, nn.Linear)]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(FORMATS, "toy", Format(build=Toy))


@pytest.fixture
def toy_recipe(registered, small_recipe):
    """The small recipe on the toy encoder, with a classifier that can be learned in seconds."""
    recipe = small_recipe(model={"architecture": "toy"}, pretrain={"max_steps": 8})
    optimizer = replace(recipe.finetune.optimizer, learning_rate=3e-3)
    return replace(recipe, finetune=replace(recipe.finetune, epochs=24, optimizer=optimizer))


@pytest.mark.slow
def test_a_new_encoder_goes_through_all_stages_and_answers(toy_recipe, tmp_path):
    run = bertwright.run(toy_recipe, out=str(tmp_path / "run"))

    pretrained = load_pretraining_model(run.path / "pretrain" / "model")
    assert isinstance(pretrained.encoder, Toy)
    assert read_json(run.path / "pretrain" / "model" / "config.json")["model_type"] == "toy"
    assert run.results["scores"]["bert"]["accuracy"] > 0.9  # one word gives the label away

    folder = run.path / "finetune" / "seed-0" / "model"
    model = load_task_model(folder).eval()
    assert isinstance(model.encoder, Toy)
    stored = load_file(folder / "model.safetensors")
    assert len(stored) == len(list(model.parameters()))
    texts = ["A wonderful film.", "A dreadful film, dreadful from end to end."]
    loaded = bertwright.load(run.path)
    found = loaded.predict(texts)
    assert [one.label for one in found] == ["positive", "negative"]
    for text, prediction in zip(texts, found, strict=True):
        ids = torch.from_numpy(loaded.inputs(loaded.records([text]))[0].input_ids.astype(np.int64))[None]
        with torch.no_grad():
            logits, others = (each(ids, torch.zeros_like(ids)) for each in (model, loaded.classifier))
        assert torch.equal(logits, others)
        expected = dict(zip(("negative", "positive"), logits.softmax(-1)[0].tolist(), strict=True))
        assert prediction.probabilities == pytest.approx(expected, abs=5e-3)  # in bfloat16, where a CPU has it

    assert len(loaded.fill_mask("The river by the [MASK] was old.", top_k=3)[0]) == 3
    assert 0 < loaded.next_sentence("The river was old.", "It was new again.") < 1
    assert loaded.embed(texts)[0].pooled.shape == (toy_recipe.model.hidden_size,)
    tokens, weights = loaded.attention(texts[0], 32)
    assert weights.shape == (toy_recipe.model.num_hidden_layers, 1, len(tokens), len(tokens))


def test_a_saved_model_gives_the_logits_of_the_one_in_memory(toy_recipe, small_tokenizer, tmp_path):
    torch.manual_seed(0)
    encoder = new_encoder(toy_recipe.model, small_tokenizer.vocab_size, small_tokenizer.pad_id)
    names = ["negative", "positive"]
    model = TaskModel(encoder, find_task("classification").head(encoder, names, 0.1), names, "classification").eval()
    save_model(model, small_tokenizer, tmp_path)
    ids = torch.randint(5, small_tokenizer.vocab_size, (3, 20))
    mask = torch.arange(20) < torch.tensor([[20], [7], [1]])
    with torch.no_grad():
        before, after = (each(ids, torch.zeros_like(ids), mask) for each in (model, load_task_model(tmp_path).eval()))
    assert torch.equal(before, after)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_new_encoder_s_weights_and_pooler(toy_recipe, small_prepared, tmp_path):
    pretrain(toy_recipe, small_prepared, tmp_path, "x", Engine(toy_recipe.system, print), print)
    said: list[str] = []
    task, folder = find_task("classification"), tmp_path / "model"
    model = new_task_model(task, folder, toy_recipe.finetune, ["negative", "positive"], said.append)
    pretrained = load_pretraining_model(folder)
    assert said == []
    for part in ("encoder", "pooler"):
        fresh = model.encoder if part == "encoder" else model.head.pooler
        for a, b in zip(fresh.parameters(), getattr(pretrained, part).parameters(), strict=True):
            assert torch.equal(a, b)


def test_an_initialization_for_bert_is_refused_by_name(toy_recipe, small_prepared, tmp_path):
    recipe = replace(toy_recipe, pretrain=replace(toy_recipe.pretrain, initialization="local_attention"))
    with pytest.raises(UserError, match=r"made for model\.architecture bert, and this encoder is a toy"):
        pretrain(recipe, small_prepared, tmp_path, "x", Engine(recipe.system, print), print)
