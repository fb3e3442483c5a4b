"""What a run learns from and is validated on: a folder, drawn facades, or both; and which files it could not use."""

from maelib.data.cmp import read_photos
from maelib.data.images import Images, Joined, drawn_pool, photo_names, split
from maelib.data.large_folder import LARGE, FileImages
from maelib.training.recipes import TrainConfig

VALIDATION_SEED = 899  # of the drawn pool that no training draws from
MOST_TOLD = 20  # files left out that are named at once


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
            images = FileImages(config.data, names, size, config.model.patch_size if config.wedges else None)
            train_images, val_images = images.split(config.val_share, config.seed, config.val_images)
        else:
            images, skipped = read_photos(config.data, size, config.skip_bad)
            train_images, val_images = split(images, config.val_share, config.seed)
        if drawn:
            train_images = Joined(train_images, drawn_pool(drawn, size))  # the pool stays in its file
    if config.wedges:
        train_images, val_images = (part.with_wedges(config.model.patch_size) for part in (train_images, val_images))
    return train_images, val_images, skipped


class LeftOut:
    """Which files of a run's `datasets` turn out to be unusable when they are read (see `maelib.data.large_folder`)."""

    def __init__(self, *datasets: Images) -> None:
        self.datasets, self.told = datasets, 0

    def whys(self) -> dict[str, str]:
        """Why, by name."""
        return {name: why for images in self.datasets for name, why in list(images.left_out.items())}

    def news(self) -> list[str]:
        """What there is to say of those found since the last call."""
        whys = list(self.whys().values())
        notes = [f"left out: {why}" for why in whys[self.told : MOST_TOLD]]
        if self.told <= MOST_TOLD < len(whys):
            notes.append("left out: more files, all listed at the end")
        self.told = len(whys)
        return notes
