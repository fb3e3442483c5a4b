"""How fast are facades drawn? Pictures a CPU-second on one core: `python benchmarks/drawing.py`."""

import time

from maelib.facades import draw_images


def main() -> None:
    """Print a table of sizes; medians of five rounds."""
    print("| size, px | facades a CPU-second |")
    print("|---|---|")
    for size, count in ((64, 200), (96, 150), (224, 60), (1024, 4)):
        draw_images(range(3), size)
        rates = []
        for start in range(0, 5 * count, count):
            began = time.process_time()
            draw_images(range(start, start + count), size)
            rates.append(count / (time.process_time() - began))
        print(f"| {size} | {sorted(rates)[2]:.0f} |")


if __name__ == "__main__":
    main()
