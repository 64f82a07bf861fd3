"""Synthetic seismic tiles with salt, and whole competitions made of them, in the layout of the real one.

They serve to try the toolkit without Kaggle's data: the tiles have the size, grey levels and coverage of the real ones,
but a score on them says nothing about the competition. Only a few counts come from the real data.

The model is a convolutional one, without wave equation: an impedance log of random beds becomes reflectivity, is
convolved with a Ricker wavelet, and laid along dipping, folded and faulted beds, which salt drags upwards. The wavelet
is laid perpendicular to the beds and not upright, which avoids steps in steep ones. The salt's outline reflects with
the same wavelet; its inside is quiet.
"""

import hashlib
import pathlib

import cv2
import numpy as np
from tqdm import tqdm

from salt.layout import check_vacant, write_competition
from salt.tgs import COMPETITION, TILE_SIZE
from salt.tiles import Tiles

SCENE_SIZE = 160  # pixels; a tile is the middle of a larger scene, so that filters have no border effects in it
SCENE_SHAPE = (SCENE_SIZE, SCENE_SIZE)
SCENE_MARGIN = (SCENE_SIZE - TILE_SIZE) // 2
LOG_STEP = 0.25  # pixels between two samples of the impedance log
LOG_START, LOG_END = -260.0, 460.0  # pixels: all depths that dip, folds, faults and drag can move into a scene

# How many of the real competition's 4,000 training tiles fall into each coverage class, ceil(10 * coverage).
COVERAGE_CLASSES = (1562, 576, 296, 224, 186, 225, 205, 174, 148, 159, 245)
BLACK_SHARE = 0.02  # of all tiles: blank, as 80 of the real 4,000
VERTICAL_SHARE = 0.05  # of the tiles with salt: the same mask in all rows, as 113 of the real 2,438
SHAPES = {"dome": 0.36, "flank": 0.28, "sheet": 0.13, "base": 0.13, "blob": 0.10}  # of the other tiles with salt


def synthetic_tile(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Makes one tile, which depends on `seed` and `index` alone, not on the number or the order of the others.

    Args:
        seed: int >= 0, of the whole competition.
        index: int >= 0, the tile's number in it.

    Returns:
        The image, uint8 `[101, 101]`; the mask, uint8 {0, 1} `[101, 101]`; and the depth, a whole number between 50 and
        959 as in depths.csv.

    Example:
        >>> image, mask, depth = synthetic_tile(seed=0, index=7)
    """
    rng = np.random.default_rng((seed, index))
    shares = np.array(COVERAGE_CLASSES) / sum(COVERAGE_CLASSES)
    coverage_class = rng.choice(len(shares), p=shares)
    # Shallow tiles are more often empty: the correlation of depth and emptiness is -.13.
    depth = float(np.clip(np.round(rng.normal(527 if coverage_class else 472, 205)), 50, 959))
    if coverage_class == 0 and rng.random() < BLACK_SHARE / shares[0]:
        blank = np.zeros((TILE_SIZE, TILE_SIZE), np.uint8)
        return blank, blank.copy(), depth
    salt = draw_salt(rng, draw_salt_pixels(rng, coverage_class)) if coverage_class else None
    scene = draw_seismic(rng, salt, depth)
    image = stretch_grey(scene[tile_window()])
    mask = np.zeros_like(image) if salt is None else salt[tile_window()].astype(np.uint8)
    return image, mask, depth


def synthetic_tiles(count: int, seed: int, first: int = 0, progress: bool = True) -> Tiles:
    """Makes the tiles number `first` to `first + count - 1` of the competition `seed`.

    Args:
        count: how many.
        seed: int >= 0.
        first: int >= 0.
        progress: whether to show a progress bar.

    Returns:
        `Tiles` with masks.

    Example:
        >>> tiles = synthetic_tiles(count=8, seed=0)
        >>> tiles.images.shape
        (8, 101, 101)
    """
    images = np.zeros((count, TILE_SIZE, TILE_SIZE), np.uint8)
    masks = np.zeros_like(images)
    depths = np.zeros(count)
    for i in tqdm(range(count), desc="synthetic tiles", unit="tile", disable=not progress):
        images[i], masks[i], depths[i] = synthetic_tile(seed, first + i)
    ids = np.array([synthetic_id(seed, first + i) for i in range(count)], dtype=str)
    return Tiles(ids, images, masks, depths, COMPETITION)


def synthetic_id(seed: int, index: int) -> str:
    """The id of a tile: ten hexadecimal digits, as Kaggle's."""
    return hashlib.sha256(f"{seed}-{index}".encode()).hexdigest()[:10]


def write_synthetic(
    folder: str | pathlib.Path, train: int = 400, test: int = 100, seed: int = 0, progress: bool = True
) -> pathlib.Path:
    """Writes a synthetic competition in Kaggle's own layout.

    The masks of the test tiles are not written. `synthetic_tiles(test, seed, first=train).masks` makes them again.

    Args:
        folder: where to write; it must not exist, or be empty.
        train: how many training tiles.
        test: how many test tiles.
        seed: int >= 0; the same seed gives the same files on the same machine.
        progress: whether to show progress bars.

    Returns:
        `folder`, a `pathlib.Path`.

    Raises:
        DataError: `folder` exists and is not empty.

    Example:
        >>> folder = write_synthetic("data/synthetic", train=40, test=10)
    """
    check_vacant(folder)  # before the work, not after it
    tiles = synthetic_tiles(train + test, seed, progress=progress)
    return write_competition(
        COMPETITION,
        folder,
        *(tiles.ids[:train], tiles.images[:train], tiles.known_masks()[:train], tiles.depths[:train]),
        *(tiles.ids[train:], tiles.images[train:], tiles.depths[train:]),
    )


def tile_window() -> tuple[slice, slice]:
    """Where the tile lies in its scene."""
    window = slice(SCENE_MARGIN, SCENE_MARGIN + TILE_SIZE)
    return window, window


# ---------------------------------------------------------------------------------------------------------------------
# Salt
# ---------------------------------------------------------------------------------------------------------------------


def draw_salt_pixels(rng: np.random.Generator, coverage_class: int) -> int:
    """How many pixels of the tile are salt, for a coverage class from 1 to 10; never all of them, as in real tiles."""
    low, high = (coverage_class - 1) / 10, coverage_class / 10
    # Very small masks are frequent: of the real ones below 10 %, a third has less than 100 pixels.
    share = rng.random() ** 1.88 if coverage_class == 1 else rng.random()
    pixels = TILE_SIZE**2
    return int(np.clip(np.ceil((low + share * (high - low)) * pixels), np.floor(low * pixels) + 1, high * pixels - 1))


def draw_salt(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """A salt body of which `pixels` pixels lie in the tile, bool `[160, 160]`.

    A shape is a field that increases towards the inside of the salt; the threshold is chosen for the coverage.
    """
    if rng.random() < VERTICAL_SHARE and pixels >= TILE_SIZE:
        field, pixels = vertical_field(rng), pixels // TILE_SIZE * TILE_SIZE
    else:
        shape = str(rng.choice(list(SHAPES), p=list(SHAPES.values())))
        field = salt_field(rng, shape)
    inside = field[tile_window()].ravel()
    return field >= np.partition(inside, -pixels)[-pixels]


def vertical_field(rng: np.random.Generator) -> np.ndarray:
    """The field of salt on one side of a vertical line, or between two."""
    _, x = scene_axes()
    if rng.random() < 0.85:
        return np.broadcast_to(rng.choice([-1.0, 1.0]) * x, (SCENE_SIZE, SCENE_SIZE))
    # The centre lies off the pixels, so that no two columns are equally far from it.
    return np.broadcast_to(-np.abs(x - rng.integers(40, 120) - 0.25), (SCENE_SIZE, SCENE_SIZE))


def salt_field(rng: np.random.Generator, shape: str) -> np.ndarray:
    """A field that increases towards the inside of a salt body of one of `SHAPES`, float `[160, 160]`, in pixels."""
    z, x = scene_axes()
    rough = float(rng.choice([0.0, 0.5, 1.5], p=[0.5, 0.3, 0.2]))
    outline = smooth_curve(rng, 6, 4) + smooth_curve(rng, 2.5, 12) + smooth_curve(rng, rough, 50)
    if shape in ("dome", "base"):
        width, height = rng.uniform(25, 90), rng.choice([0, 1, 1]) * rng.uniform(10, 90)
        cap = height * np.exp(-(((x - rng.uniform(0, SCENE_SIZE)) / width) ** 2))
        below_cap = z + cap + rng.normal(0, 0.2) * x + outline
        return below_cap if shape == "dome" else -(z - 0.4 * cap + rng.normal(0, 0.3) * x + outline)
    if shape == "flank":
        lean = rng.normal(0.25, 0.4)  # above zero the body widens downwards, below it overhangs
        curve = rng.normal(0, 0.002) * (z - SCENE_SIZE / 2) ** 2
        return rng.choice([-1.0, 1.0]) * (x - SCENE_SIZE / 2) + lean * z + curve + outline[0][:, None]
    if shape == "sheet":
        middle = rng.uniform(45, 115) + rng.normal(0, 0.35) * (x - SCENE_SIZE / 2) + 2 * outline
        return smooth_curve(rng, 8, 4) - np.abs(z - middle)
    centre_z, centre_x = rng.uniform(30, 130, 2)
    stretch = rng.uniform(0.5, 1.5)
    return 6 * smooth_field(rng, 5) + 2 * smooth_field(rng, 12) - np.hypot(stretch * (z - centre_z), x - centre_x)


# ---------------------------------------------------------------------------------------------------------------------
# Seismic
# ---------------------------------------------------------------------------------------------------------------------


def draw_seismic(rng: np.random.Generator, salt: np.ndarray | None, depth: float) -> np.ndarray:
    """The seismic image of a scene, float `[160, 160]`, of any scale.

    Args:
        rng: a `numpy.random.Generator`.
        salt: bool `[160, 160]`, or None.
        depth: of the tile; the deeper, the lower the frequency.
    """
    z, _ = scene_axes()
    period = float(np.clip(np.exp(rng.normal(np.log(18), 0.42)) * (0.85 + 0.3 * depth / 959), 6, 36))  # pixels
    wavelet = ricker_wavelet(period, rng.uniform(-30, 30))
    times, trace, impedance = draw_log(rng, period, wavelet)
    beds = z + draw_structure(rng, period)
    if salt is not None:
        distance = signed_distance(salt)
        drag = rng.uniform(0, 1.2) * period * np.exp(-np.maximum(distance, 0) / rng.uniform(6, 25))
        beds = beds + drag  # they rise towards the salt and become thinner
    scene = np.interp(beds, times, trace) * np.exp(0.5 * smooth_field(rng, 9))
    noise = coloured_noise(rng, period)
    chaotic = rng.random() < 0.25
    scene = scene + noise * (rng.uniform(0.8, 3) if chaotic else rng.uniform(0.08, 0.5))
    if rng.random() < 0.25:  # dim or chaotic ground that is not salt
        ground = cv2.GaussianBlur((smooth_field(rng, 4) > 0.6).astype(np.float32), (0, 0), 3)
        scene = scene * (1 - 0.8 * ground) + 0.4 * ground * coloured_noise(rng, period)
    if salt is not None:
        scene = add_salt(rng, scene, salt, distance, np.interp(beds, times, impedance), wavelet, period)
    elif rng.random() < 0.04:  # the sea above the first bed
        floor = rng.uniform(45, 90) + smooth_curve(rng, 3, 4)
        scene = scene * (z > floor) + 4 * sample_wavelet(wavelet, z - floor)
    scene = cv2.GaussianBlur(scene.astype(np.float32), (0, 0), sigmaX=rng.uniform(0.4, 1.6), sigmaY=0.5)
    scene = balance_amplitudes(scene, int(rng.integers(41, 102)), rng.uniform(0, 0.45))
    polarity = np.exp(rng.normal(0, 0.3))  # one polarity is stronger: after the stretch, tiles are darker or lighter
    return np.where(scene > 0, polarity * scene, scene)


def ricker_wavelet(period: float, phase: float) -> np.ndarray:
    """A Ricker wavelet at steps of `LOG_STEP` pixels, its phase rotated by `phase` degrees; time 0 is in the middle."""
    half = int(np.ceil(1.3 * period / LOG_STEP))
    t = np.arange(-half, half + 1) * LOG_STEP
    argument = (np.pi * t / period) ** 2
    wavelet = (1 - 2 * argument) * np.exp(-argument)
    # The analytic signal, twice the positive frequencies, whose phase can be rotated.
    spectrum = np.fft.fft(wavelet)
    spectrum[len(t) // 2 + 1 :] = 0
    return np.real(2 * np.fft.ifft(spectrum) * np.exp(1j * np.deg2rad(phase)))


def sample_wavelet(wavelet: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The wavelet at a distance of `pixels` from its centre; 0 beyond its ends."""
    half = len(wavelet) // 2
    return np.interp(pixels, np.arange(-half, half + 1) * LOG_STEP, wavelet, left=0, right=0)


def draw_log(
    rng: np.random.Generator, period: float, wavelet: np.ndarray, end: float = LOG_END
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A log of random beds: depths in pixels, the seismic trace (of unit deviation) and the impedance there."""
    times = np.arange(LOG_START, end, LOG_STEP)
    beds = int(8 * (end - LOG_START) / period) + 50  # enough even if all are thin
    thickness = rng.gamma(2, rng.uniform(0.1, 0.3) * period, beds)
    steps = rng.normal(0, rng.uniform(0.08, 0.22), beds) * rng.choice([1, 2.5], beds, p=[0.9, 0.1])
    bed = np.minimum(np.searchsorted(LOG_START + np.cumsum(thickness), times), beds - 1)
    impedance = 2.2 + np.clip(steps, -1.2, 1.2)[bed] + 0.0008 * times  # the trend is compaction
    reflectivity = np.diff(impedance, append=impedance[-1]) / (2 * impedance)
    trace = np.convolve(reflectivity, wavelet, mode="same")
    return times, trace / trace.std(), impedance


def draw_structure(rng: np.random.Generator, period: float) -> np.ndarray:
    """By how many pixels dip, folds and faults have raised each point of the scene above its depth in the log."""
    z, x = scene_axes()
    dip = rng.normal(0, 0.25) + (rng.random() < 0.2) * rng.choice([-0.6, 0.6])
    shift = dip * (x - SCENE_SIZE / 2) + rng.uniform(0, min(0.5 * period, 8)) * smooth_field(rng, 4)
    shift = shift + rng.uniform(0, min(0.1 * period, 1.5)) * smooth_field(rng, 14)
    shift = shift + rng.uniform(0, min(0.07 * period, 0.8)) * smooth_field(rng, 40)
    for _ in range(rng.poisson(0.7)):
        slope = rng.choice([-1, 1]) * rng.uniform(0.15, 0.8)
        side = (x - rng.uniform(30, 130)) + slope * (z - SCENE_SIZE / 2)
        shift = shift + rng.normal(0, 6) * np.clip(side / 2.5, -1, 1)
    return np.clip(shift, -240, 280)


def add_salt(
    rng: np.random.Generator,
    scene: np.ndarray,
    salt: np.ndarray,
    distance: np.ndarray,
    impedance: np.ndarray,
    wavelet: np.ndarray,
    period: float,
) -> np.ndarray:
    """Puts the salt into a scene of sediments: its shadow, its quiet inside, and the reflection of its outline."""
    soft = cv2.GaussianBlur(salt.astype(np.float32), (0, 0), 0.8)
    shadow = cv2.GaussianBlur(np.maximum.accumulate(salt, axis=0).astype(np.float32), (0, 0), 4)
    scene = scene * (1 - rng.uniform(0, 0.7) * shadow)
    quiet = 10 ** rng.uniform(-0.8, 0.05)
    inside = quiet * coloured_noise(rng, period * rng.uniform(0.6, 1.3), scene.shape) + rng.normal(0, 0.15)
    scene = scene * (1 - soft) + inside * soft
    # Contrast with the sediments outside, smoothed as the Fresnel zone smooths it; its sign changes from bed to bed.
    local = cv2.GaussianBlur(impedance.astype(np.float32), (0, 0), 3)
    salt_impedance = rng.uniform(2.7, 3.6)
    contrast = 8 * (salt_impedance - local) / (salt_impedance + local)
    normal_z = np.gradient(cv2.GaussianBlur(distance.astype(np.float32), (0, 0), 2), axis=0)
    facing = np.clip(-normal_z, -1, 1)  # 1: a top, 0: an upright flank, -1: a base
    flank = rng.uniform(0.1, 0.7)
    strength = np.where(facing > 0, flank + (1 - flank) * facing, flank + (0.6 + flank) * facing)
    brightness = rng.uniform(0.5, 4.5) * contrast * strength * np.exp(0.3 * smooth_field(rng, 9, scene.shape))
    return scene + brightness * sample_wavelet(wavelet, distance)


def balance_amplitudes(scene: np.ndarray, window: int, strength: float) -> np.ndarray:
    """Automatic gain control: divides by the local amplitude to the power `strength`; 0 leaves the scene as it is."""
    power = cv2.boxFilter(scene * scene, -1, (window, window))
    return scene / (power + 0.05 * power.mean() + 1e-12) ** (strength / 2)


def stretch_grey(scene: np.ndarray) -> np.ndarray:
    """Stretches a scene over the 256 grey levels, as each of the real tiles is."""
    low, high = scene.min(), scene.max()
    return np.round((scene - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Random fields
# ---------------------------------------------------------------------------------------------------------------------


def scene_axes() -> tuple[np.ndarray, np.ndarray]:
    """The rows `[160, 1]` and the columns `[1, 160]` of a scene."""
    steps = np.arange(SCENE_SIZE, dtype=np.float64)
    return steps[:, None], steps[None, :]


def smooth_curve(rng: np.random.Generator, deviation: float, knots: int, width: int = SCENE_SIZE) -> np.ndarray:
    """A smooth random function of the column, `[1, width]`, through `knots` normal values."""
    values = rng.normal(0, 1, (1, knots)) * deviation
    return cv2.resize(values.astype(np.float32), (width, 1), interpolation=cv2.INTER_CUBIC)


def smooth_field(rng: np.random.Generator, knots: int, shape: tuple[int, ...] = SCENE_SHAPE) -> np.ndarray:
    """A smooth random field of a shape through `knots` x `knots` normal values."""
    values = rng.normal(0, 1, (knots, knots)).astype(np.float32)
    return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)


def coloured_noise(rng: np.random.Generator, period: float, shape: tuple[int, ...] = SCENE_SHAPE) -> np.ndarray:
    """Noise of a shape in the wavelet's band, of unit deviation; its grain is isotropic, streaked or columnar."""
    frequency_z = np.fft.fftfreq(shape[0])[:, None]
    frequency_x = np.fft.rfftfreq(shape[1])[None, :]
    stretch, width = np.exp(rng.normal(0.5, 0.7)), rng.uniform(0.3, 0.7)
    columnar = rng.random() < 0.3
    band = 0
    for angle in rng.normal(np.pi / 2 if columnar else 0, 0.45, 2):  # two crossing dips, an artefact of migration
        along = np.cos(angle) * frequency_z + np.sin(angle) * frequency_x
        across = np.cos(angle) * frequency_x - np.sin(angle) * frequency_z
        radius = np.hypot(along, stretch * across) * period * (0.5 if columnar else 1)
        band = band + np.exp(-0.5 * (np.log(radius + 0.02) / width) ** 2) / (radius + 0.5)
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * band, shape)
    return noise / noise.std()


def signed_distance(salt: np.ndarray) -> np.ndarray:
    """The distance to the outline of the salt in pixels, `[160, 160]`: above zero outside, below it inside."""
    inside = salt.astype(np.uint8)
    outwards = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inwards = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(salt, 0.5 - inwards, outwards - 0.5)
