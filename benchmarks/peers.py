"""Other libraries' masked autoencoders in our shape and behind our call, and the step that this project began as.

A peer is a module: `peer(images, mask)` predicts all patches `(B, N, P)` in [0, 1] from images `(B, 3, H, W)` in
[0, 1] and a mask `(B, N)` bool whose rows hide equally many patches; `peer.loss(images, mask)` is the squared error
over hidden patches, by the library's own way where it has one. `pip install -e '.[bench]'` installs them.
"""

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maelib.losses import masked_mse, target_patches
from maelib.masking import split_ids
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.patches import PIXEL_MEAN, PIXEL_STD
from maelib.perceptual import LAYERS, vgg19


def _kept(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of visible and of hidden patches, `(B, K)` and `(B, N - K)`."""
    ids_keep, ids_restore = split_ids(mask)
    return ids_keep, ids_restore.argsort(dim=1)[:, ids_keep.shape[1] :]


class Ours(MaskedAutoencoder):
    """maelib's model."""

    def loss(self, images: Tensor, mask: Tensor) -> Tensor:
        """As `maelib.losses.ReconstructionLoss` computes it."""
        return masked_mse(self(images, mask), target_patches(images, self.config.patch_size), mask)


class _Peer(nn.Module):
    """What all peers share: normalised pixels inside."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None])

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def to_pixels(self, patches: Tensor) -> Tensor:
        area = self.config.patch_size**2
        return patches * self.std.flatten().repeat(area) + self.mean.flatten().repeat(area)


class HuggingFace(_Peer):
    """transformers' ViTMAEForPreTraining."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config)
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        self.model = ViTMAEForPreTraining(
            ViTMAEConfig(
                hidden_size=config.embed_dim,
                num_hidden_layers=config.depth,
                num_attention_heads=config.num_heads,
                intermediate_size=int(config.embed_dim * config.mlp_ratio),
                image_size=config.img_size,
                patch_size=config.patch_size,
                decoder_hidden_size=config.decoder_embed_dim,
                decoder_num_hidden_layers=config.decoder_depth,
                decoder_num_attention_heads=config.decoder_num_heads,
                decoder_intermediate_size=int(config.decoder_embed_dim * config.mlp_ratio),
            )
        )

    def _run(self, images: Tensor, mask: Tensor):
        embeddings = self.model.vit.embeddings
        embeddings.config.mask_ratio = mask[0].float().mean().item()  # it hides where its noise is largest
        return self.model(pixel_values=self.normalise(images), noise=mask.float())

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        return self.to_pixels(self._run(images, mask).logits)

    def loss(self, images: Tensor, mask: Tensor) -> Tensor:
        return self._run(images, mask).loss


class Lightly(_Peer):
    """lightly's masked transformers around timm's, put together as its documentation does."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config)
        from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            img_size=config.img_size,
            patch_size=config.patch_size,
            num_classes=0,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
        )
        self.backbone = MaskedVisionTransformerTIMM(vit)
        self.embed = nn.Linear(config.embed_dim, config.decoder_embed_dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            vit.patch_embed.num_patches, config.decoder_embed_dim, config.decoder_depth, config.decoder_num_heads
        )
        self.head = nn.Linear(config.decoder_embed_dim, 3 * config.patch_size**2)

    def _decode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder's tokens, class token first, and the hidden tokens' indices in them."""
        keep, hidden = (F.pad(ids + 1, (first, 0)) for ids, first in zip(_kept(mask), (1, 0), strict=True))
        seen = self.embed(self.backbone.encode(self.normalise(images), idx_keep=keep))
        tokens = self.decoder.mask_token.to(seen.dtype).repeat(len(images), mask.shape[1] + 1, 1)
        return self.decoder(tokens.scatter(1, keep[..., None].expand_as(seen), seen)), hidden

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        return self.to_pixels(self.head(self._decode(images, mask)[0][:, 1:]))

    def loss(self, images: Tensor, mask: Tensor) -> Tensor:
        from lightly.models import utils

        tokens, hidden = self._decode(images, mask)
        target = utils.patchify(self.normalise(images), self.config.patch_size)
        return F.mse_loss(self.head(utils.get_at_index(tokens, hidden)), utils.get_at_index(target, hidden - 1))


class VitPytorch(_Peer):
    """vit-pytorch's MAE, its modules called in its order, for it draws its masks itself."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config)
        from vit_pytorch import ViT
        from vit_pytorch.mae import MAE

        vit = ViT(
            image_size=config.img_size,
            patch_size=config.patch_size,
            num_classes=1,
            pool="mean",  # no class token
            dim=config.embed_dim,
            depth=config.depth,
            heads=config.num_heads,
            dim_head=config.embed_dim // config.num_heads,
            mlp_dim=int(config.embed_dim * config.mlp_ratio),
        )
        self.mae = MAE(
            encoder=vit,
            decoder_dim=config.decoder_embed_dim,
            decoder_depth=config.decoder_depth,
            decoder_heads=config.decoder_num_heads,
            decoder_dim_head=config.decoder_embed_dim // config.decoder_num_heads,
        )

    def _decode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """True patches, decoder's tokens, and the index of the hidden ones."""
        mae, (keep, hidden) = self.mae, _kept(mask)
        patches = mae.to_patch(self.normalise(images))
        tokens = mae.patch_to_emb(patches) + mae.encoder.pos_embedding
        rows = torch.arange(len(images))[:, None]
        seen = mae.enc_to_dec(mae.encoder.transformer(tokens[rows, keep]))
        everything = torch.zeros(*mask.shape, mae.decoder_dim)
        everything[rows, keep] = (seen + mae.decoder_pos_emb(keep)).float()
        everything[rows, hidden] = mae.mask_token + mae.decoder_pos_emb(hidden)
        return patches, mae.decoder(everything), (rows, hidden)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        return self.to_pixels(self.mae.to_pixels(self._decode(images, mask)[1]))

    def loss(self, images: Tensor, mask: Tensor) -> Tensor:
        patches, tokens, hidden = self._decode(images, mask)
        return F.mse_loss(self.mae.to_pixels(tokens[hidden]), patches[hidden])


PEERS: dict[str, Callable[[MAEConfig], nn.Module]] = {
    "maelib": Ours,
    "Hugging Face": HuggingFace,
    "lightly": Lightly,
    "vit-pytorch": VitPytorch,
}
PACKAGES = {"Hugging Face": "transformers", "lightly": "lightly", "vit-pytorch": "vit-pytorch"}


def make_peer(name: str, config: MAEConfig) -> nn.Module:
    """A peer with random weights; "maelib, compiled" is maelib's as `maelib train --compile` computes it."""
    torch.manual_seed(0)
    peer = PEERS[name.removesuffix(", compiled")](config)
    if name.endswith(", compiled"):
        for block in (*peer.blocks, *peer.decoder_blocks):
            block.compile()
    return peer


def versions() -> str:
    """Which versions of the peers these are."""
    return ", ".join(f"{package} {version(package)}" for package in (*PACKAGES.values(), "timm"))


class PlainStep(_Peer):
    """The step of the custom MAE that this project began as, in float32, for its cost.

    One square block drawn inside the model, learned positions, timm's blocks; squared error over hidden pixels, and a
    perceptual loss on whole images, black outside the hole, for which VGG19 runs from its beginning for every layer.
    """

    def __init__(self, config: MAEConfig, ratio: float = 0.5, weights: str = "random") -> None:
        super().__init__(config)
        from timm.models.vision_transformer import Block

        count, dim, wide = config.grid_size[0] ** 2, config.embed_dim, config.decoder_embed_dim
        self.ratio = ratio
        self.embed = nn.Conv2d(3, dim, config.patch_size, config.patch_size)
        self.positions = nn.Parameter(0.02 * torch.randn(1, count, dim))
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.encoder = nn.Sequential(*(Block(dim, config.num_heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(dim)
        self.to_decoder = nn.Identity() if dim == wide else nn.Linear(dim, wide)
        self.hidden = nn.Parameter(0.02 * torch.randn(1, 1, wide))
        self.decoder_positions = nn.Parameter(0.02 * torch.randn(1, count + 1, wide))
        self.decoder = nn.Sequential(*(Block(wide, config.decoder_num_heads) for _ in range(config.decoder_depth)))
        self.head = nn.Linear(wide, 3 * config.patch_size**2)
        layers = vgg19(weights, LAYERS).features.to(memory_format=torch.contiguous_format)
        self.prefixes = [layers[:end] for end in (2, 7, 12)]  # up to relu1_1, relu2_1, relu3_1

    def square_mask(self, batch: int) -> Tensor:
        """`(B, N)` bool: a square of int(sqrt(N * ratio)) patches a side, anywhere."""
        side = self.config.grid_size[0]
        block = int((side * side - int(side * side * (1 - self.ratio))) ** 0.5)
        mask = np.zeros((batch, side, side), bool)
        for row in mask:
            top, left = np.random.randint(0, side - block + 1, 2)  # noqa: NPY002 (as the original draws)
            row[top : top + block, left : left + block] = True
        return torch.from_numpy(mask).flatten(1)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        keep, hidden = _kept(mask)
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
        tokens = self.to_decoder(
            self.norm(self.encoder(torch.cat([self.token.expand(len(images), -1, -1), tokens], 1)))
        )
        hidden_tokens = self.hidden.expand(len(images), hidden.shape[1], -1)
        back = torch.cat([keep, hidden], dim=1).argsort(dim=1)[..., None].expand(-1, -1, tokens.shape[-1])
        patches = torch.cat([tokens[:, 1:], hidden_tokens], dim=1).gather(1, back)
        return self.head(self.decoder(torch.cat([tokens[:, :1], patches], dim=1) + self.decoder_positions)[:, 1:])

    def loss(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """0.6 x squared error + 0.4 x perceptual loss, on images in [-1, 1]; `mask` is not asked for."""
        from maelib.masking import mask_to_pixels
        from maelib.patches import unpatchify

        images, mask, size = images * 2 - 1, self.square_mask(len(images)), self.config.patch_size
        predicted = unpatchify(self(images, mask), size, self.config.grid_size)
        hole = mask_to_pixels(mask, size, self.config.grid_size)[:, None].float().expand_as(images)
        error = ((predicted - images) ** 2 * hole).sum() / (hole.sum() + 1e-8)
        features = sum(F.mse_loss(prefix(predicted * hole), prefix(images * hole)) for prefix in self.prefixes)
        return 0.6 * error + 0.4 * features
