"""Draw the extension's icon: `python slicer_extension/draw_icon.py`, from the root of a checkout."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIDE = 128
SCALE = 8  # drawn larger and reduced, for smooth edges
FOLDER = Path(__file__).resolve().parent
TARGETS = (FOLDER / "PASTAAid.png", FOLDER / "PASTAAid" / "Resources" / "Icons" / "PASTAAid.png")

NIGHT, FRAME = (18, 27, 46), (64, 92, 140)
FAT, SOFT, BONE = (84, 92, 108), (128, 137, 152), (226, 230, 236)
LIVER, KIDNEY = (150, 160, 174), (158, 168, 184)
LESION, LINE = (255, 140, 50), (255, 214, 120)


def _scaled(*values: float) -> list[float]:
    return [value * SCALE for value in values]


def draw() -> Image.Image:
    """Draw an axial slice with one marked lesion."""
    image = Image.new("RGBA", (SIDE * SCALE, SIDE * SCALE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle(
        _scaled(2, 2, 126, 126), radius=24 * SCALE, fill=NIGHT, outline=FRAME, width=2 * SCALE
    )
    pen.ellipse(_scaled(12, 26, 116, 104), fill=FAT)
    pen.ellipse(_scaled(17, 31, 111, 99), fill=SOFT)
    pen.polygon(
        _scaled(24, 50, 38, 39, 62, 38, 76, 46, 58, 58, 46, 76, 32, 80, 23, 68), fill=LIVER
    )  # R is left
    pen.ellipse(_scaled(86, 46, 105, 70), fill=LIVER)  # spleen
    pen.ellipse(_scaled(36, 72, 50, 89), fill=KIDNEY)
    pen.ellipse(_scaled(79, 72, 93, 89), fill=KIDNEY)
    pen.ellipse(_scaled(54, 70, 75, 88), fill=BONE)
    pen.polygon(_scaled(59, 86, 70, 86, 66, 98, 63, 98), fill=BONE)
    pen.ellipse(_scaled(61, 60, 70, 69), fill=(200, 206, 216))  # aorta
    glow = Image.new("RGBA", image.size, (0, 0, 0, 0))
    ImageDraw.Draw(glow).ellipse(_scaled(29, 46, 53, 70), fill=(*LESION, 170))
    image.alpha_composite(glow.filter(ImageFilter.GaussianBlur(4 * SCALE)))
    pen = ImageDraw.Draw(image)
    pen.ellipse(_scaled(33, 50, 49, 66), fill=LESION, outline=(255, 255, 255), width=2 * SCALE)
    for start, end in (
        ((41, 8), (41, 44)),
        ((41, 72), (41, 120)),
        ((8, 58), (27, 58)),
        ((55, 58), (120, 58)),
    ):
        pen.line(_scaled(*start, *end), fill=(*LINE, 210), width=int(1.6 * SCALE))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the icon to both places that need it."""
    icon = draw()
    for target in TARGETS:
        target.parent.mkdir(parents=True, exist_ok=True)
        icon.save(target, optimize=True)


if __name__ == "__main__":
    main()
