"""What tests of the model share: a network small enough to compare number by number, and how to compare."""

import torch

from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.heads import PretrainingModel, SequenceHead, TaskModel, TokenHead
from bertwright.models.initialization import initialize
from bertwright.recipe import ModelConfig

SHAPE = ModelConfig(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
VOCAB = 211


def sentence_transformer(folder):
    """The model of sentence-transformers in a folder. The package takes seconds to load: not for those without it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def classifier(shape, vocab_size, label_names):
    """A classifier without dropout before its last layer."""
    head = SequenceHead(shape.hidden_size, len(label_names), 0.0, shape.is_decoder)
    return TaskModel(new_encoder(shape, vocab_size), head, label_names, "classification")


def save_tagger(tokenizer, folder, label_names, seed=0):
    """Write a folder with a random model for tokens, whose answers differ from word to word."""
    torch.manual_seed(seed)
    head = TokenHead(SHAPE.hidden_size, len(label_names), 0.0)
    model = TaskModel(new_encoder(SHAPE, tokenizer.vocab_size), head, list(label_names), "token-classification")
    with torch.no_grad():
        shaken(model, 0.1).encoder.token_embeddings.weight.mul_(20)
        head.classifier.weight.mul_(20)
        head.classifier.bias.zero_()
    save_model(model, tokenizer, folder)


def shaken(model, scale=0.05):
    """Away from the zeros and ones of initialisation, where mistakes hide."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return model


def begun(shape, vocab_size=40):
    """The initial weights for pre-training a network of a shape, by name."""
    torch.manual_seed(3)
    return PretrainingModel(new_encoder(shape, vocab_size)).state_dict()


def drawn(build, shape, vocab_size=40):
    """An encoder of a class or a function, with weights large enough that its parts show."""
    torch.manual_seed(0)
    encoder = build(shape, vocab_size)
    initialize(encoder, 0.2)
    return encoder


def relative(ours, theirs):
    """The largest difference, as a fraction of the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)).item()
