"""Which tiles abut: every edge compared with every other one, and how sure each match is. From pixels alone.

No threshold and no weight is a constant of this module, since surveys differ; both come from the tiles at hand:

- what a true seam looks like, from cuts through the inside of tiles, whose two sides certainly belong together;
- what a false one looks like, from *decoys*: the right edge of each tile against the right edges of the others, as if
  those were mirrored, and left against left. Mirrored tiles are as smooth as the others, but never lie side by side.

A classifier learns to tell the two apart. Decoys compete with matches for each edge, and the share of false matches
above a score is the number of decoys that win with such a score, divided by the number of matches that do.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

DEPTH = 3  # pixels next to a seam that are looked at
CUTS = (0.2, 0.4, 0.6, 0.8)  # where tiles are cut to learn from, as shares of their width
CUT_TILES = 1000  # at most; so many tiles are cut
LESSONS = 3000  # decoys, at most, that a judge learns from
REFERENCE_STEP = 4  # pixels between the cuts that tell how well a tile continues itself
FLAT = 2.0  # grey levels of deviation along an edge; below it, an edge shows rounding and no structure
FISHER_LIMIT = 3.8  # of arctanh(correlation): a correlation of 0.999; eight bits do not tell more
STRIP = 12  # pixels behind an edge whose texture is compared
BLOCK = 2048  # edges at a time in a matrix product, which bounds the memory: 180 MB for 22,000 tiles
TAIL = 20  # decoys, the best ones, whose exponential tail tells what is to be expected beyond the best of all
FEWEST_MATCHES = 4  # with fewer, a false one in a hundred of many sets would still be a false one in many a set
TWIN = 0.5  # correlation of two whole tiles that show the same place, as two neighbouring slices of a survey do


class Edges(NamedTuple):
    """One edge of each tile: unit vectors `[N, L]` without their mean, so that a product of two is a correlation.

    Attributes:
        beyond: extrapolated by half a pixel, to where the two sides of a seam meet if tiles abut.
        border: the last pixels, which two tiles share if they overlap by one.
        detail: differences along `beyond`: small structures, which agree by chance less often.
        gradient: differences across the seam, outwards.
        texture: how rough the strip behind the edge is along it and across it, logarithms; `[N, 2]`, no unit vectors.
    """

    beyond: np.ndarray
    border: np.ndarray
    detail: np.ndarray
    gradient: np.ndarray
    texture: np.ndarray

    def take(self, rows: np.ndarray) -> "Edges":
        """The edges of some of the tiles."""
        return Edges(*(vectors[rows] for vectors in self))


class TwoBest(NamedTuple):
    """For each edge, the two most similar ones of another set: index `[N]` and Fisher's z of the correlation `[N]`."""

    first: np.ndarray
    first_z: np.ndarray
    second: np.ndarray
    second_z: np.ndarray

    def other_z(self, rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
        """How similar the best one but `partners` is."""
        return np.where(self.first[rows] == partners, self.second_z[rows], self.first_z[rows])


class Matches(NamedTuple):
    """Pairs of tiles that may abut, one direction's.

    Attributes:
        before, after: int `[M]`: `after` lies right of `before`, or below it.
        score: float `[M]`, log odds of a true seam against a decoy.
    """

    before: np.ndarray
    after: np.ndarray
    score: np.ndarray

    def sorted(self) -> "Matches":
        """The same, the best first; ties in the order of the tiles."""
        order = np.lexsort((self.after, self.before, -self.score))
        return Matches(*(values[order] for values in self))

    def mutual(self) -> "Matches":
        """Those that are the best of both of their edges, the best first."""
        best = self.sorted()
        firsts = [np.isin(np.arange(len(best.score)), np.unique(tiles, return_index=True)[1]) for tiles in best[:2]]
        return Matches(*(values[firsts[0] & firsts[1]] for values in best))


def compete(candidates: Matches, left: Matches, right: Matches, count: int) -> tuple[Matches, np.ndarray]:
    """Lets decoys compete with candidates for each edge: what is the best of both of its edges wins.

    An edge whose true neighbour is there leaves nothing to a decoy, and nothing to a false match. So as many decoys win
    as false matches do: the target-decoy competition of Elias and Gygi, Nature Methods 4 (2007).

    Args:
        candidates: right edges with left ones.
        left, right: decoys: left edges with left ones, right edges with right ones, each pair in both orders.
        count: how many tiles there are.

    Returns:
        The candidates that win, the best first; and the scores of the decoys that do, float `[D]`.
    """
    of_right, of_left = np.full((2, count), -np.inf)  # the best score of each edge
    np.maximum.at(of_right, candidates.before, candidates.score)
    np.maximum.at(of_left, candidates.after, candidates.score)
    decoys = []
    for pairs, edge in ((left.mutual(), of_left), (right.mutual(), of_right)):
        wins = (pairs.before < pairs.after) & (pairs.score > np.maximum(edge[pairs.before], edge[pairs.after]))
        decoys.append(pairs.score[wins])
    np.maximum.at(of_right, right.before, right.score)
    np.maximum.at(of_left, left.before, left.score)
    best = candidates.mutual()
    wins = best.score >= np.maximum(of_right[best.before], of_left[best.after])
    return Matches(*(values[wins] for values in best)), np.concatenate(decoys)


class Direction:
    """All edges of one direction: which tile may lie right of which, or, of transposed tiles, below which.

    Args:
        images: `[N, H, W]`, none constant; at least four.

    Attributes:
        candidates: `Matches`: each edge with its two best partners.
        matches: those that are the best of both of their edges, decoys included; the best first.
        decoys: float `[D]`, the scores of the decoys that are; about as many as the false ones among `matches`.
    """

    def __init__(self, images: np.ndarray):
        self.images = images
        self.count, _, self.width = images.shape
        self.right, self.left = tile_edges(images, self.width - 1, -1), tile_edges(images, 0, 1)
        self.continuity = self_continuity(images)
        self.rightwards = two_best(self.right, self.left)
        self.leftwards = two_best(self.left, self.right)
        # One judge learns from the decoys of left edges, and judges those of right edges, the other the reverse: decoys
        # of edges that a judge knows would score too low, and false matches would seem rarer than they are.
        decoys = [self.mirrored(self.left, self.continuity[0]), self.mirrored(self.right, self.continuity[1])]
        cuts = self.cut_features()
        self.judges = [train_judge(cuts, thinned(features, LESSONS)) for _, features in decoys]
        of_left, of_right = (
            Matches(pairs[0], pairs[1], judge(features))
            for (pairs, features), judge in zip(decoys, reversed(self.judges), strict=True)
        )
        pairs = np.concatenate([partner_pairs(self.rightwards), partner_pairs(self.leftwards)[:, ::-1]])
        before, after = np.unique(pairs, axis=0).T
        self.candidates = Matches(before, after, self.scores(before, after))
        self.matches, self.decoys = compete(self.candidates, of_left, of_right, self.count)

    def scores(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Log odds that `after` lies right of `before`, for any pairs of tiles."""
        others = self.rightwards.other_z(before, after), self.leftwards.other_z(after, before)
        continuity = (self.continuity[1][before] + self.continuity[0][after]) / 2
        features = seam_features(self.right.take(before), self.left.take(after), *others, continuity)
        return (self.judges[0](features) + self.judges[1](features)) / 2

    def mirrored(self, edges: Edges, continuity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decoys: pairs of tiles, int `[2, D]`, whose edges on the same side are similar, and the pairs' features."""
        best = two_best(edges, edges)
        pairs = partner_pairs(best)
        pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
        one, two = pairs[~self.are_twins(*pairs.T)].T
        others = best.other_z(one, two), best.other_z(two, one)
        means = (continuity[one] + continuity[two]) / 2
        return np.stack([one, two]), seam_features(edges.take(one), edges.take(two), *others, means)

    def cut_features(self) -> np.ndarray:
        """The features of seams inside of tiles, each among all edges of the other tiles as its rivals."""
        rng = np.random.default_rng(0)
        features = []
        for share in CUTS:
            tiles = np.sort(rng.permutation(self.count)[:CUT_TILES])
            column = min(max(round(share * self.width), DEPTH), self.width - DEPTH - 1)
            before = tile_edges(self.images[tiles], column, -1)
            after = tile_edges(self.images[tiles], column + 1, 1)
            others = two_best(before, self.left, tiles), two_best(after, self.right, tiles)
            continuity = self.continuity.mean(axis=0)[tiles]
            features.append(seam_features(before, after, others[0].first_z, others[1].first_z, continuity))
        return np.concatenate(features)

    def are_twins(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Which pairs show the same place, so that their right edges agree by right. bool `[M]`."""
        found = np.empty(len(first), bool)
        for start in range(0, len(first), BLOCK):
            part = slice(start, start + BLOCK)
            one, two = (
                unit_vectors(self.images[tiles[part]].reshape(-1, self.images[0].size)) for tiles in (first, second)
            )
            found[part] = (one * two).sum(axis=1) > TWIN
        return found


def tile_edges(images: np.ndarray, column: int, inwards: int) -> Edges:
    """The edges of tiles at a column, which is the last one before the seam; `inwards` is -1 or 1."""
    first, second = (images[:, :, column + k * inwards].astype(np.float32) for k in range(2))
    beyond = 1.5 * first - 0.5 * second
    return Edges(
        unit_vectors(beyond),
        unit_vectors(first),
        unit_vectors(np.diff(beyond, axis=1)),
        unit_vectors(first - second),
        roughness(images, column, inwards),
    )


def roughness(images: np.ndarray, column: int, inwards: int) -> np.ndarray:
    """How rough the strip behind an edge is, along the edge and across it, relative to its contrast: logs, `[N, 2]`."""
    start = column if inwards > 0 else max(column - STRIP + 1, 0)
    strip = images[:, :, start : start + STRIP].astype(np.float32)
    deviation = strip.std(axis=(1, 2)) + FLAT
    return np.stack(
        [np.log((np.abs(np.diff(strip, axis=axis)).mean(axis=(1, 2)) + 0.5) / deviation) for axis in (1, 2)], axis=1
    )


def unit_vectors(values: np.ndarray) -> np.ndarray:
    """Rows of grey levels without their mean, of length 1; flat ones become 0. float32."""
    values = values.astype(np.float32)
    values = values - values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > FLAT * np.sqrt(values.shape[1]), length, np.inf)


def fisher_z(correlations: np.ndarray) -> np.ndarray:
    """arctanh, limited: differences of it mean the same near 0 and near 1."""
    limit = np.tanh(FISHER_LIMIT)
    return np.arctanh(np.clip(correlations, -limit, limit))


def self_continuity(images: np.ndarray) -> np.ndarray:
    """How well the left and the right third of each tile continue themselves: median Fisher's z, float `[2, N]`."""
    width = images.shape[2]
    sides = []
    for first, last in ((DEPTH, width // 3), (width - width // 3, width - DEPTH)):
        values = []
        for column in range(first, last, REFERENCE_STEP):
            before, after = tile_edges(images, column - 1, -1).beyond, tile_edges(images, column, 1).beyond
            values.append(fisher_z((before * after).sum(axis=1)))
        sides.append(np.median(values, axis=0))
    return np.stack(sides)


def two_best(queries: Edges, keys: Edges, own: np.ndarray | None = None) -> TwoBest:
    """The two keys most similar to each query, whether tiles abut or share their border pixels.

    Args:
        queries: edges of M tiles.
        keys: edges of N tiles, at least three.
        own: int `[M]`, the key of the query's own tile, which is left out; None: that of its own number.
    """
    count = len(queries.beyond)
    own = np.arange(count) if own is None else own
    index, value = np.empty((2, count), np.int64), np.empty((2, count), np.float32)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        rows = np.arange(stop - start)
        similar = queries.beyond[start:stop] @ keys.beyond.T
        np.maximum(similar, queries.border[start:stop] @ keys.border.T, out=similar)
        similar[rows, own[start:stop]] = -np.inf
        for place in range(2):
            best = similar.argmax(axis=1)
            index[place, start:stop], value[place, start:stop] = best, similar[rows, best]
            similar[rows, best] = -np.inf
    z = fisher_z(value)
    return TwoBest(index[0], z[0], index[1], z[1])


def partner_pairs(best: TwoBest) -> np.ndarray:
    """Each edge with its two partners, int `[2 N, 2]`."""
    rows = np.arange(len(best.first))
    return np.concatenate([np.stack([rows, partners], axis=1) for partners in (best.first, best.second)])


def seam_features(
    before: Edges, after: Edges, row_rival: np.ndarray, column_rival: np.ndarray, continuity: np.ndarray
) -> np.ndarray:
    """What a seam is judged by; of each, more speaks for it.

    Args:
        before, after: the two edges of each of M seams.
        row_rival, column_rival: Fisher's z of the best other partner of `before`, and of `after`.
        continuity: how well the two tiles continue themselves.

    Returns:
        float `[M, 8]`: similarity (Fisher's z); from how many pixels it comes; similarity less the tiles' own
        continuity; the lesser and the greater lead over the two rivals; similarity of small structures; continuity of
        the gradient; likeness of the texture.
    """
    abutting = (before.beyond * after.beyond).sum(axis=1)
    similarity = fisher_z(np.maximum(abutting, (before.border * after.border).sum(axis=1)))
    leads = np.stack([similarity - row_rival, similarity - column_rival])
    return np.stack(
        [
            similarity,
            np.log(np.minimum(detail_pixels(before.detail), detail_pixels(after.detail))),
            np.clip(similarity - continuity, -2, 0.25),  # beyond, it tells of flat tiles, not of better seams
            np.clip(leads.min(axis=0), -0.5, 1),
            np.clip(leads.max(axis=0), -0.5, 1),
            fisher_z((before.detail * after.detail).sum(axis=1)),
            fisher_z(-(before.gradient * after.gradient).sum(axis=1)),
            -np.abs(before.texture - after.texture).sum(axis=1),
        ],
        axis=1,
    )


def detail_pixels(detail: np.ndarray) -> np.ndarray:
    """How many pixels of an edge hold its small structures: few where all is flat but the bottom of the sea."""
    return 1 / np.maximum((detail**4).sum(axis=1), 1 / detail.shape[1])


def thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // most))]


def train_judge(true: np.ndarray, false: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from features to log odds, learned from seams inside of tiles and from decoys.

    Trees find which features matter together; a linear model goes on where they have no more examples. It is the sum.
    """
    features = np.concatenate([true, false])
    truth = np.repeat([1, 0], [len(true), len(false)])
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=6, monotonic_cst=[1] * features.shape[1], class_weight="balanced",
        early_stopping=False, random_state=0,
    )  # fmt: skip
    linear = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500))
    # One thread: with several, each tree of this small problem waits for the slowest of them, which on a busy machine
    # takes minutes.
    threads = ThreadpoolController()
    with threads.limit(limits=1, user_api="openmp"):
        models = [model.fit(features, truth) for model in (trees, linear)]

    def judge(given: np.ndarray) -> np.ndarray:
        with threads.limit(limits=1, user_api="openmp"):
            return sum(model.decision_function(given) for model in models)

    return judge


def false_shares(scores: np.ndarray, decoys: np.ndarray) -> np.ndarray:
    """The estimated share of false ones among the matches with at least each score.

    The number of decoys with that score is an estimate of the number of false matches. Beyond the best decoys their
    exponential tail counts, so that a handful of matches is not taken for sure because no decoy happens to reach them.

    Args:
        scores: float `[M]`, of mutual matches, the best first.
        decoys: float `[D]`, of mutual decoys.

    Returns:
        float `[M]`, not decreasing, at most 1.
    """
    if not len(decoys):
        return np.ones(len(scores))
    ordered = np.sort(decoys)
    counted = len(ordered) - np.searchsorted(ordered, scores, side="left")
    tail = ordered[-min(TAIL, max(2, len(ordered) // 5)) :]
    # By the median, since a single decoy may lie far beyond the others; the fewer there are, the less they are trusted.
    mean_excess = max(float(np.median(tail - tail[0])) / np.log(2), 2 - len(tail) / TAIL)
    expected = len(tail) * np.exp(-np.maximum(scores - tail[0], 0) / mean_excess)
    share = np.maximum(counted, expected) / np.arange(1, len(scores) + 1)
    share[: FEWEST_MATCHES - 1] = 1.0
    return np.minimum(np.minimum.accumulate(share[::-1])[::-1], 1.0)
