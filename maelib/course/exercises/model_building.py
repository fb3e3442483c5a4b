"""Exercises of notebook 03: attention weights, tokens put back in place, counts, the whole forward pass."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise, pairs, whole
from maelib.masking import random_mask, split_ids
from maelib.model import MAEConfig, MaskedAutoencoder

# ------------------------------------------------------------------------------------------------- attention weights


def _queries(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys `(B, heads, N, d)`; heads, N and d differ; one number a token; one token."""
    shapes = (2, 3, 5, 8), (1, 2, 4, 1), (3, 1, 1, 6)
    return [(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)) for shape in shapes]


def _weights(
    root: float = 0.5, dim: int = -1, swap: bool = False, soft: bool = True, of: int = -1
) -> Callable[[Tensor, Tensor], Tensor]:
    def weigh(q: Tensor, k: Tensor) -> Tensor:
        q, k = (k, q) if swap else (q, k)
        scores = q @ k.transpose(-2, -1) / q.shape[of] ** root
        return scores.softmax(dim=dim) if soft else scores

    return weigh


# ------------------------------------------------------------------------------------------------------- putting back


def _queues(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tokens `(B, K, D)` of visible patches, a mask token, masks `(B, N)` that differ between rows; one picture."""
    cases = []
    for batch, grid, ratio, dim in ((3, (3, 4), 1 / 3, 2), (2, (2, 5), 0.7, 1), (1, (1, 6), 0.5, 3)):
        mask = random_mask(batch, grid, ratio, generator)
        visible = int((~mask[0]).sum())
        tokens, token = (torch.randn(*shape, dim, generator=generator) for shape in ((batch, visible), (1, 1)))
        cases.append((tokens, token, mask))
    return cases


def _queue(tokens: Tensor, mask_token: Tensor, mask: Tensor) -> Tensor:
    hidden = mask_token.expand(len(tokens), mask.shape[1] - tokens.shape[1], -1)
    return torch.cat([tokens, hidden], dim=1)  # (B, N, D)


def _fetch(queue: Tensor, ids: Tensor) -> Tensor:
    return queue.gather(1, ids[..., None].expand(len(queue), -1, queue.shape[-1]))


def _put_back(tokens: Tensor, mask_token: Tensor, mask: Tensor) -> Tensor:
    return _fetch(_queue(tokens, mask_token, mask), split_ids(mask)[1])


def _put_back_by_order(tokens: Tensor, mask_token: Tensor, mask: Tensor) -> Tensor:
    return _fetch(_queue(tokens, mask_token, mask), mask.int().argsort(dim=1, stable=True))


def _put_back_hidden_first(tokens: Tensor, mask_token: Tensor, mask: Tensor) -> Tensor:
    queue = _queue(tokens, mask_token, mask).roll(mask.shape[1] - tokens.shape[1], dims=1)
    return _fetch(queue, split_ids(mask)[1])


# ----------------------------------------------------------------------------------------------------------- counting


def _configs(generator: Generator) -> list[tuple[MAEConfig]]:
    """Shapes whose widths, depths and patch sizes all differ, without rotary positions or class token."""
    shapes = ((6, 2, 8, 2, 16, 1), (48, 4, 48, 5, 32, 3), (25, 5, 16, 1, 8, 2))
    cases = []
    for size, patch, dim, depth, decoder_dim, decoder_depth in shapes:
        config = MAEConfig(
            img_size=size, patch_size=patch, embed_dim=dim, depth=depth + whole(generator, 0, 2), num_heads=2,
            decoder_embed_dim=decoder_dim * whole(generator, 3, 5), decoder_depth=decoder_depth, decoder_num_heads=1,
            rotary=False,
        )  # fmt: skip
        cases.append((config,))
    return cases


def _parameters(
    linear: int = 9, norms: int = 4, qkv: int = 0, around: bool = True, mask_token: bool = True, final: bool = True,
    bias: bool = True, channels: int = 3,
) -> Callable[[MAEConfig], int]:  # fmt: skip
    """A counter that takes a block for `12 D^2 + (linear + norms - qkv) D` and may leave out the layers around it."""

    def count(config: MAEConfig) -> int:
        pixels, dims = channels * config.patch_size**2, (config.embed_dim, config.decoder_embed_dim)
        depths, total = (config.depth, config.decoder_depth), 0
        for depth, dim in zip(depths, dims, strict=True):
            total += depth * (12 * dim**2 + (linear + norms - qkv) * dim) + 2 * dim * final
        if around:
            total += pixels * dims[0] + dims[0] * dims[1] + dims[1] * pixels + (dims[0] + dims[1] + pixels) * bias
        return total + dims[1] * mask_token

    return count


def _flops(
    encode_all: bool = False, decode_visible: bool = False, products: int = 2, square: int = 4, around: bool = True,
    embed_all: bool = True, hidden: Callable[[float, int], float] = lambda ratio, total: round(ratio * total),
) -> Callable[[MAEConfig, float], float]:  # fmt: skip
    def count(config: MAEConfig, ratio: float) -> float:
        total = config.grid_size[0] * config.grid_size[1]
        visible = total - hidden(ratio, total)
        kept, decoded = total if encode_all else visible, visible if decode_visible else total
        pixels, dim, decoder_dim = 3 * config.patch_size**2, config.embed_dim, config.decoder_embed_dim
        flops = config.depth * (24 * kept * dim**2 + square * kept**2 * dim)
        flops += config.decoder_depth * (24 * decoded * decoder_dim**2 + square * decoded**2 * decoder_dim)
        if around:
            embedded = total if embed_all else kept
            flops += 2 * (embedded * pixels * dim + kept * dim * decoder_dim + decoded * decoder_dim * pixels)
        return flops * products / 2 if flops % 1 else int(flops) * products // 2

    return count


# --------------------------------------------------------------------------------------------------- the forward pass


def draw_model(config: MAEConfig, generator: Generator) -> MaskedAutoencoder:
    """Draw the weights of a new model, and leave torch's global generator as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(whole(generator, 0, 2**31))
        return MaskedAutoencoder(config)


def _official(generator: Generator) -> list[tuple[MaskedAutoencoder, Tensor, Tensor]]:
    """Small models of the official kind, none of whose parameters is zero or one, with images and masks; one image."""
    cases = []
    for size, patch, batch, ratio in ((24, 8, 2, 0.6), (8, 4, 1, 0.5), (12, 4, 3, 0.2)):
        config = MAEConfig(
            img_size=size, patch_size=patch, embed_dim=16, depth=2, num_heads=2,
            decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, class_token=True, rotary=False,
        )  # fmt: skip
        model = draw_model(config, generator).eval().requires_grad_(False)
        for parameter in model.parameters():
            shift = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter += shift - parameter * (parameter.ndim < 3) * 0.5
        images = torch.rand(batch, 3, size, size, generator=generator)
        cases.append((model, images, random_mask(batch, (size // patch, size // patch), ratio, generator)))
    return cases


def _forward(
    raw: bool = False, late: bool = False, homeless: bool = False, norm: bool = True, restore: bool = True,
    placeless: bool = False, mixed: bool = False, first: bool = False, last_norm: bool = True,
    pixels: Callable[..., Tensor] = lambda x, mean, std, area: x * std.repeat(area) + mean.repeat(area),
) -> Callable[[MaskedAutoencoder, Tensor, Tensor], Tensor]:  # fmt: skip
    """The forward pass, with one mistake for each argument that is not its default."""

    def forward(model: MaskedAutoencoder, images: Tensor, mask: Tensor) -> Tensor:
        mean, std, area = model.pixel_mean, model.pixel_std, model.config.patch_size**2
        ids_keep, ids_restore = split_ids(mask)
        x = model.patch_embed(images if raw else (images - mean[:, None, None]) / std[:, None, None])
        kept = ids_keep.shape[1]
        x = _fetch(x, ids_keep) + (
            model.pos_embed[:, 1 : 1 + kept]
            if late
            else _fetch(model.pos_embed[:, 1:].expand(len(x), -1, -1), ids_keep)
        )
        token = model.cls_token if homeless else model.cls_token + model.pos_embed[:, :1]
        x = torch.cat([token.expand(len(x), -1, -1), x], dim=1)  # -> (B, 1 + K, D)
        for block in model.blocks:
            x = block(x)
        x = model.decoder_embed(model.norm(x) if norm else x)
        queue = torch.cat([x[:, 1:], model.mask_token.expand(len(x), mask.shape[1] - kept, -1)], dim=1)
        if mixed:  # the class token is taken for the first patch
            whole = torch.cat([x[:, :1], queue], dim=1)
            x = torch.cat([_fetch(whole, ids_restore), whole[:, -1:]], dim=1)
        else:
            x = torch.cat([x[:, :1], _fetch(queue, ids_restore) if restore else queue], dim=1)
        x = x if placeless else x + model.decoder_pos_embed
        for block in model.decoder_blocks:
            x = block(x)
        x = model.decoder_pred(model.decoder_norm(x) if last_norm else x)
        return pixels(x if first else x[:, 1:], mean, std, area)

    return forward


EXERCISES: dict[str, Exercise] = {
    "03.1": Exercise(
        cases=_queries,
        solution=_weights(),
        praise="Each token's weights add up to 1, over all keys.",
        mistakes=pairs(
            _weights(root=0),
            "The scores are not scaled: divide by the square root of d, q.shape[-1] ** 0.5.",
            _weights(of=-2),
            "The scores are divided by the root of N: take that of d, q.shape[-1] ** 0.5.",
            _weights(root=1),
            "The scores are divided by d itself: take its square root.",
            _weights(root=-0.5),
            "The scores are multiplied by the square root of d: divide by it.",
            _weights(dim=-2),
            "The softmax runs over the queries: keys run along the last dimension, dim=-1.",
            _weights(swap=True),
            "Queries and keys are swapped: rows belong to queries, q @ k.transpose(-2, -1).",
            _weights(soft=False),
            "These are scores: a softmax over the keys turns them into weights.",
        ),
    ),
    "03.2": Exercise(
        cases=_queues,
        solution=_put_back,
        praise="Visible tokens are in their places, and the mask token stands in all the others.",
        mistakes=pairs(
            _queue,
            "This is the queue: fetch each patch's token from it with ids_restore.",
            _put_back_by_order,
            "This shuffles once more: ids_restore undoes the order, the order itself does not.",
            _put_back_hidden_first,
            "The mask tokens are in front: visible tokens come first in the queue.",
            lambda tokens, token, mask: _put_back(tokens, torch.zeros_like(token), mask),
            "The hidden places hold zeros: the learned mask token belongs there.",
            lambda tokens, token, mask: _put_back(tokens, token, mask[:1].expand(len(mask), -1)),
            "All rows are put back like row 0: each row of the mask has its own order.",
            lambda tokens, token, mask: _put_back(tokens, token, ~mask),
            "The mask is inverted: split_ids expects True where a patch is hidden.",
        ),
    ),
    "03.3": Exercise(
        cases=_configs,
        solution=_parameters(),
        praise="For facade_base this makes 14.7 million trained parameters.",
        mistakes=pairs(
            _parameters(mask_token=False),
            "The mask token is missing: decoder_embed_dim numbers.",
            _parameters(final=False),
            "The two norms after the blocks are missing: 2 D numbers each.",
            _parameters(norms=0),
            "The norms inside the blocks are missing: two a block, 2 D numbers each.",
            _parameters(norms=2),
            "A norm has 2 D numbers, a scale and a shift for each: only half are counted.",
            _parameters(bias=False),
            "The biases of patch_embed, decoder_embed and decoder_pred are missing.",
            _parameters(linear=0, bias=False),
            "All biases are missing: a linear layer from a to b has ab + b.",
            _parameters(channels=1),
            "A pixel has three colours: a patch has 3 * patch_size ** 2 values.",
            _parameters(linear=0),
            "The biases of the blocks' linear layers are missing: 9 D a block.",
            _parameters(qkv=3),
            "The qkv layer has a bias too: 3 D numbers a block.",
            _parameters(around=False),
            "patch_embed, decoder_embed and decoder_pred are missing: they lie outside the blocks.",
        ),
    ),
    "03.4": Exercise(
        cases=lambda generator: [
            (config, ratio) for (config,), ratio in zip(_configs(generator), (0.5, 0.754, 0.35), strict=True)
        ],
        solution=_flops(),
        praise="torch.utils.flop_counter counts the same.",
        mistakes=pairs(
            _flops(encode_all=True),
            "The encoder works on all patches here: hidden ones are dropped before its blocks.",
            _flops(decode_visible=True),
            "The decoder works on visible tokens here: mask tokens make it N again.",
            _flops(products=1),
            "This is half of it: a product and the addition after it are two operations.",
            _flops(square=0),
            "The comparison of all pairs of tokens is missing: 4 N^2 D a block.",
            _flops(square=2),
            "Pairs cost twice that: q k^T takes 2 N^2 D, and so does the weighted sum of v.",
            _flops(around=False),
            "Only the blocks count here: add patch_embed, decoder_embed and decoder_pred.",
            _flops(hidden=lambda ratio, total: total - round(ratio * total)),
            "Visible and hidden are swapped: the encoder works on N - round(ratio * N) patches.",
            _flops(hidden=lambda ratio, total: int(ratio * total)),
            "int cuts a fraction off: the number of hidden patches is round(ratio * N).",
            _flops(hidden=lambda ratio, total: ratio * total),
            "There is no part of a patch: the number of hidden patches is round(ratio * N).",
            _flops(hidden=lambda ratio, total: total - round((1 - ratio) * total)),
            "The visible patches were rounded: round the hidden ones, and take the rest as visible.",
            _flops(embed_all=False),
            "All patches are embedded, hidden ones as well: they are dropped after that.",
        ),
    ),
    "03.5": Exercise(
        cases=_official,
        solution=lambda model, images, mask: model(images, mask),
        praise="This is the official model, from pixels to pixels.",
        mistakes=pairs(
            _forward(raw=True),
            "The pixels go in as they are: subtract pixel_mean and divide by pixel_std first.",
            _forward(late=True),
            "Visible tokens got the first positions: add positions before you drop the hidden ones.",
            _forward(homeless=True),
            "The class token lacks its position, pos_embed[:, :1].",
            _forward(norm=False),
            "The encoder ends with model.norm, before decoder_embed.",
            _forward(restore=False),
            "The patches are still in the order of the queue: ids_restore is missing.",
            _forward(mixed=True),
            "The class token was put back among the patches: it stays in front, and only the patches move.",
            _forward(placeless=True),
            "The decoder's tokens have no positions: add decoder_pos_embed.",
            _forward(first=True),
            "The class token is still there: return the N patches alone.",
            _forward(last_norm=False),
            "The decoder ends with model.decoder_norm, before decoder_pred.",
            _forward(pixels=lambda x, mean, std, area: (x - mean.repeat(area)) / std.repeat(area)),
            "This normalises the prediction once more: do the reverse, times pixel_std, plus pixel_mean.",
            _forward(pixels=lambda x, mean, std, area: x * std.repeat_interleave(area) + mean.repeat_interleave(area)),
            "A patch holds pixel after pixel, three colours each: use repeat, not repeat_interleave.",
            _forward(pixels=lambda x, mean, std, area: x),
            "These are normalised pixels: multiply by pixel_std and add pixel_mean.",
        ),
    ),
}
