"""The figures of the study of bidirectional context, in the style of the report's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter

from bertwright.evaluate.plots import Theme, save_panel
from bertwright.text.wordpiece import MASK, Tokenizer
from probing import PLACES, Probe

Floats = npt.NDArray[np.float64]


def save_revealed(folder: Path, probe: Probe, tokenizer: Tokenizer, log_odds: Mapping[str, Floats]) -> None:
    """Draw the probability of the right word as the context right of the mask is revealed.

    Args:
        folder: where `uncovered-<id>.png` and its dark twin go.
        probe: the sentence.
        tokenizer: cuts it into tokens.
        log_odds: of each model, what `probing.log_odds` gives for the probe.
    """
    left, right = probe.text.split(MASK)
    tokens = [tokenizer.tokens[i] for i in tokenizer.encode([right])[0]]

    def paint(axes: Axes, theme: Theme) -> None:
        steps = np.arange(len(tokens) + 1)
        for index, (name, odds) in enumerate(log_odds.items()):
            axes.plot(steps, 1 / (1 + np.exp(-odds)), "o-", color=theme.cycle[index], markersize=5, label=name)
        axes.axhline(0.5, color=theme.muted, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_xticks(steps, ["nothing", *tokens], rotation=45, ha="right")
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("revealed so far, token by token")
        axes.set_title(f"{left}____ …: probability of “{probe.good}”, not “{probe.bad}”", loc="left", fontsize=10.5)
        axes.legend(frameon=False, fontsize=9)

    save_panel(folder, f"uncovered-{probe.id}", (5.6, 3.6), paint)


def save_attention(folder: Path, name: str, title: str, profile: Floats) -> None:
    """Draw the attention weights of each head by relative position, as a map.

    Args:
        folder: where `attention-<name>.png` and its dark twin go.
        name: of the file.
        title: of the model.
        profile: (layers, heads, places), from `probing.attention_profile`.
    """
    layers, heads, places = profile.shape

    def paint(axes: Axes, theme: Theme) -> None:
        colors = LinearSegmentedColormap.from_list("weights", [theme.background, theme.cycle[0]])
        axes.grid(False)
        drawn = axes.imshow(profile.reshape(-1, places), cmap=colors, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(places), PLACES, rotation=90)
        names = [f"{layer + 1}.{head + 1}" for layer in range(layers) for head in range(heads)]
        axes.set_yticks(range(layers * heads), names, fontsize=8)
        for layer in range(1, layers):
            axes.axhline(layer * heads - 0.5, color=theme.muted, linewidth=0.8)
        axes.set_xlabel("position attended to: [CLS], tokens by relative position, [SEP]")
        axes.set_ylabel("layer and head")
        axes.set_title(f"Attention weights: {title}", loc="left", fontsize=10.5)
        bar = axes.figure.colorbar(drawn, ax=axes, format=PercentFormatter(1))
        bar.outline.set_visible(False)

    save_panel(folder, f"attention-{name}", (6.4, 4.6), paint)
