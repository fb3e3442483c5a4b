"""What a run learns from and is validated on: a folder, drawn facades, or both."""

from maelib.cmp import read_photos
from maelib.data import Images, Joined, drawn_pool, photo_names, split
from maelib.large_folder import LARGE, FileImages
from maelib.recipes import TrainConfig

VALIDATION_SEED = 899  # of the drawn pool that no training draws from


def load_images(config: TrainConfig) -> tuple[Images, Images, list[str]]:
    """Training images, drawings last, validation images, and the complaints about skipped files, as configured."""
    size, skipped = config.model.img_size, []
    drawn = config.drawn if config.drawn is not None else (0 if config.data else 20_000)
    if config.data is None:
        if not drawn:
            raise ValueError("drawn 0 and no data folder leave nothing to learn from; give one of them")
        train_images, val_images = drawn_pool(drawn, size), drawn_pool(config.val_images, size, VALIDATION_SEED)
    else:
        names = photo_names(config.data)
        if len(names) > LARGE:
            images = FileImages(config.data, names, size)
            train_images, val_images = images.split(config.val_share, config.seed, config.val_images)
        else:
            images, skipped = read_photos(config.data, size, config.skip_bad)
            train_images, val_images = split(images, config.val_share, config.seed)
        if drawn:
            train_images = Joined(train_images, drawn_pool(drawn, size))  # the pool stays in its file
    if config.wedges:
        train_images, val_images = (part.with_wedges(config.model.patch_size) for part in (train_images, val_images))
    return train_images, val_images, skipped
