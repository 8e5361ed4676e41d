"""What identifies the images of a training, so that changed ones are noticed and named."""

from __future__ import annotations

from dataclasses import dataclass

from .packed import PackedImages

MOST_NAMED = 5
"""Classes that a message names at most."""


@dataclass(frozen=True)
class DataIdentity:
    """The training images of a run, by classes, counts and content."""

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    fingerprint: str | None
    """`PackedImages.fingerprint`; None where the pixels were not read."""

    @staticmethod
    def of(images: PackedImages, with_pixels: bool = True) -> DataIdentity:
        """Return the identity of a split, without its pixels where they were not decoded."""
        return DataIdentity(
            images.class_names,
            tuple(images.class_counts.tolist()),
            images.image_shape,
            images.fingerprint() if with_pixels else None,
        )

    def difference(self, now: DataIdentity) -> str | None:
        """Return what is other in `now`, in words; None where both are the same images."""
        if self.class_names != now.class_names:
            return _other_classes(self.class_names, now.class_names)
        if self.image_shape != now.image_shape:
            was, is_now = (" x ".join(map(str, i.image_shape)) for i in (self, now))
            return f"images are {is_now} (C x H x W) and were {was}"
        pairs = zip(self.class_names, self.class_counts, now.class_counts, strict=True)
        changed = [f"{name} has {b}, had {a}" for name, a, b in pairs if a != b]
        if changed:
            more = f", and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
            return f"images of class {', '.join(changed[:MOST_NAMED])}{more}"
        if None not in (self.fingerprint, now.fingerprint) and self.fingerprint != now.fingerprint:
            return (
                "as many images of every class, but others "
                f"(fingerprint {now.fingerprint}, was {self.fingerprint})"
            )
        return None


def _other_classes(was: tuple[str, ...], now: tuple[str, ...]) -> str:
    """Return the classes that are gone or new, or the first whose place changed."""
    gone, new = (
        [name for name in some if name not in others] for some, others in ((was, now), (now, was))
    )
    if not gone and not new:
        c = next(c for c in range(len(was)) if was[c] != now[c])
        return f"classes are in another order: class {c} is {now[c]}, was {was[c]}"
    parts = [("gone", gone), ("new", new)]
    return "; ".join(
        f"class {', '.join(names[:MOST_NAMED])}{', ..' if len(names) > MOST_NAMED else ''} is {word}"
        for word, names in parts
        if names
    )
